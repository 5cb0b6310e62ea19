//! Scapy as an independent oracle: our builders write its bytes, and our parsers agree on its frames.
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use wire::build::{self, Addresses, Path, Reason, frame};
use wire::tcp::{Flags, TcpOption};
use wire::{
    Arp, Delta, EtherType, FromBytes, Icmp, Icmpv6, IntoBytes, Ipv4, Ipv6, Mac, Ports, Protocol, Tcp, U16, U32, U128,
    Udp, Vni, Vxlan, checksum, describe, ethernet, icmp, icmpv6, ipv6, nd, tcp,
};

const MACS: (Mac, Mac) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
const ETHER: &str = "Ether(src='02:00:00:00:00:01',dst='02:00:00:00:00:02')";
const IP4: &str = "IP(src='10.0.0.1',dst='10.0.0.2',flags='DF',id=0,ttl=64)";
const IP6: &str = "IPv6(src='fd00::1',dst='fd00::2',hlim=64)";

/// One Python process that turns an expression a line into the bytes of the packet that it builds.
struct Scapy {
    child: Child,
    ask: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Scapy {
    /// None, and a line that says why, where scapy is not installed.
    fn start() -> Option<Self> {
        let script = "import sys\nfrom scapy.all import *\nprint('ready', flush=True)\nfor line in sys.stdin:\n    \
                      print(bytes(eval(line)).hex(), flush=True)\n";
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(why) => {
                println!("SKIP scapy: /usr/bin/python3: {why}");
                return None;
            }
        };
        let ask = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut scapy = Self { child, ask, answers };
        match scapy.answers.next() {
            Some(Ok(line)) if line == "ready" => Some(scapy),
            _ => {
                println!("SKIP scapy: python3 cannot import it (package python3-scapy)");
                None
            }
        }
    }

    fn bytes(&mut self, expression: &str) -> Vec<u8> {
        writeln!(self.ask.as_ref().unwrap(), "{expression}").unwrap();
        let line = self.answers.next().unwrap_or_else(|| panic!("scapy refused {expression}")).unwrap();
        let hex = line.as_bytes().chunks(2);
        hex.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    /// Our frame is scapy's.
    fn agrees(&mut self, expression: &str, write: impl FnOnce(&mut [u8]) -> Option<usize>) {
        let (ours, theirs) = (frame(write).unwrap(), self.bytes(expression));
        assert_eq!(ours, theirs, "{expression}\nours:   {}\nscapy's: {}", describe(&ours), describe(&theirs));
    }
}

impl Drop for Scapy {
    fn drop(&mut self) {
        drop(self.ask.take());
        self.child.wait().unwrap();
    }
}

fn path4() -> Path {
    Path::new(MACS, Addresses::V4(U32::new(0x0a00_0001), U32::new(0x0a00_0002)))
}

fn path6() -> Path {
    Path::new(MACS, Addresses::V6(address6(1), address6(2)))
}

fn address6(host: u128) -> U128 {
    U128::new(0xfd00 << 112 | host)
}

fn families() -> [(Path, &'static str); 2] {
    [(path4(), IP4), (path6(), IP6)]
}

/// Bytes that look random and are the same in each run.
fn noise(len: usize, seed: u32) -> Vec<u8> {
    let next = |state: &u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    std::iter::successors(Some(seed), next).map(|state| state.to_be_bytes()[0]).take(len).collect()
}

fn raw(bytes: &[u8]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("Raw(bytes.fromhex('{hex}'))")
}

#[test]
fn builders_write_what_scapy_writes() {
    let Some(mut scapy) = Scapy::start() else { return };
    transports(&mut scapy);
    echoes_and_errors(&mut scapy);
    neighbours(&mut scapy);
    tunnels(&mut scapy);
}

#[test]
fn parsers_read_what_scapy_writes() {
    let Some(mut scapy) = Scapy::start() else { return };
    extension_headers(&mut scapy);
    fragments(&mut scapy);
    ipv4_options(&mut scapy);
    tcp_options(&mut scapy);
    quotes(&mut scapy);
    tunnelled(&mut scapy);
}

#[test]
fn changes_give_what_scapy_writes() {
    let Some(mut scapy) = Scapy::start() else { return };
    translation(&mut scapy);
    partial_checksums(&mut scapy);
    clamp(&mut scapy);
}

fn transports(scapy: &mut Scapy) {
    let options = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7];
    let tcp = Tcp { seq: 7.into(), ack: 9.into(), ..Tcp::new(80, 1234, Flags::SYN | Flags::ACK) };
    let written = "TCP(sport=80,dport=1234,seq=7,ack=9,flags='SA',window=65535,options=[('MSS',1460),('SAckOK',b''),\
                   ('Timestamp',(1,2)),('NOP',None),('WScale',7)])";
    for (path, ip) in families() {
        for len in (0..130).chain([1400, 9000, 65_000]) {
            let (payload, port) = (noise(len, 7), 40_000 + u16::try_from(len).unwrap() % 1000);
            let expression = format!("{ETHER}/{ip}/UDP(sport={port},dport=53)/{}", raw(&payload));
            scapy.agrees(&expression, |into| build::udp(into, &path, Ports::new(port, 53), &payload));
        }
        let expression = format!("{ETHER}/{ip}/{written}/{}", raw(&noise(333, 1)));
        scapy.agrees(&expression, |into| build::tcp(into, &path, &tcp, &options, &noise(333, 1)));
        // A payload that brings the sum to zero, which UDP must send as all ones.
        let plain = frame(|into| build::udp(into, &path, Ports::new(1, 2), &[0, 0])).unwrap();
        let evener = [plain[plain.len() - 4], plain[plain.len() - 3]];
        let expression = format!("{ETHER}/{ip}/UDP(sport=1,dport=2)/{}", raw(&evener));
        scapy.agrees(&expression, |into| build::udp(into, &path, Ports::new(1, 2), &evener));
        let evened = frame(|into| build::udp(into, &path, Ports::new(1, 2), &evener)).unwrap();
        assert_eq!(evened[evened.len() - 4..evened.len() - 2], [0xff, 0xff]);
    }
    let tagged = Path { vlan: Some(9), tos: 0xb9, hops: 3, ..path4() };
    let ip = "IP(src='10.0.0.1',dst='10.0.0.2',flags='DF',id=0,ttl=3,tos=0xb9)";
    let expression = format!("{ETHER}/Dot1Q(vlan=9)/{ip}/UDP(sport=1,dport=2)");
    scapy.agrees(&expression, |into| build::udp(into, &tagged, Ports::new(1, 2), &[]));
    let tagged = Path { vlan: Some(9), tos: 0xb9, hops: 3, ..path6() };
    let ip = "IPv6(src='fd00::1',dst='fd00::2',hlim=3,tc=0xb9)";
    let expression = format!("{ETHER}/Dot1Q(vlan=9)/{ip}/UDP(sport=1,dport=2)");
    scapy.agrees(&expression, |into| build::udp(into, &tagged, Ports::new(1, 2), &[]));
}

fn echoes_and_errors(scapy: &mut Scapy) {
    let payload = noise(57, 3);
    let data = raw(&payload);
    let ids = (0x1234, 0xabcd);
    for (kind, reply) in [(8, false), (0, true)] {
        let write = if reply { build::echo_reply } else { build::echo_request };
        let expression = format!("{ETHER}/{IP4}/ICMP(type={kind},id=0x1234,seq=0xabcd)/{data}");
        scapy.agrees(&expression, |into| write(into, &path4(), ids, &payload));
        let name = if reply { "Reply" } else { "Request" };
        let expression = format!("{ETHER}/{IP6}/ICMPv6Echo{name}(id=0x1234,seq=0xabcd,data=bytes({data}))");
        scapy.agrees(&expression, |into| write(into, &path6(), ids, &payload));
    }
    let reasons = [
        (Reason::NoRoute, "ICMP(type=3,code=0)", "ICMPv6DestUnreach(code=0)"),
        (Reason::NoNeighbour, "ICMP(type=3,code=1)", "ICMPv6DestUnreach(code=3)"),
        (Reason::NoPort, "ICMP(type=3,code=3)", "ICMPv6DestUnreach(code=4)"),
        (Reason::Prohibited, "ICMP(type=3,code=13)", "ICMPv6DestUnreach(code=1)"),
        (Reason::TooBig(1400), "ICMP(type=3,code=4,nexthopmtu=1400)", "ICMPv6PacketTooBig(mtu=1400)"),
        (Reason::NoHops, "ICMP(type=11,code=0)", "ICMPv6TimeExceeded(code=0)"),
    ];
    for (path, ip) in families() {
        let long = frame(|into| build::udp(into, &path, Ports::new(5, 6), &noise(2000, 9))).unwrap().split_off(14);
        for (reason, v4, v6) in reasons {
            let (error, limit) = if path == path4() { (v4, 576 - 28) } else { (v6, 1280 - 48) };
            let expression = format!("{ETHER}/{ip}/{error}/{}", raw(&long[..limit]));
            scapy.agrees(&expression, |into| build::icmp_error(into, &path, reason, &long));
        }
    }
}

fn neighbours(scapy: &mut Scapy) {
    let ask = Arp::request(MACS.0, 0x0a00_0001.into(), 0x0a00_0002.into());
    let written = "ARP(op=1,hwsrc='02:00:00:00:00:01',psrc='10.0.0.1',hwdst='00:00:00:00:00:00',pdst='10.0.0.2')";
    let expression = format!("Ether(src='02:00:00:00:00:01',dst='ff:ff:ff:ff:ff:ff')/{written}");
    scapy.agrees(&expression, |into| build::arp(into, Mac::BROADCAST, &ask));
    let written = "ARP(op=2,hwsrc='02:00:00:00:00:02',psrc='10.0.0.2',hwdst='02:00:00:00:00:01',pdst='10.0.0.1')";
    let expression = format!("Ether(src='02:00:00:00:00:02',dst='02:00:00:00:00:01')/{written}");
    scapy.agrees(&expression, |into| build::arp(into, MACS.0, &ask.reply(MACS.1)));

    let ether = "Ether(src='02:00:00:00:00:01',dst='33:33:ff:00:00:02')";
    let option = "ICMPv6NDOptSrcLLAddr(lladdr='02:00:00:00:00:01')";
    let message = format!("IPv6(src='fd00::1',dst='ff02::1:ff00:2',hlim=255)/ICMPv6ND_NS(tgt='fd00::2')/{option}");
    let expression = format!("{ether}/{message}");
    scapy.agrees(&expression, |into| build::neighbour_solicitation(into, MACS.0, address6(1), address6(2)));
    let expression = format!("{ether}/IPv6(src='::',dst='ff02::1:ff00:2',hlim=255)/ICMPv6ND_NS(tgt='fd00::2')");
    scapy.agrees(&expression, |into| build::neighbour_solicitation(into, MACS.0, U128::ZERO, address6(2)));
    let option = "ICMPv6NDOptDstLLAddr(lladdr='02:00:00:00:00:01')";
    let message = format!("IPv6(src='fd00::1',dst='fd00::2',hlim=255)/ICMPv6ND_NA(tgt='fd00::1',R=1,S=1,O=0)/{option}");
    let flags = nd::ROUTER | nd::SOLICITED;
    let expression = format!("{ETHER}/{message}");
    scapy.agrees(&expression, |into| build::neighbour_advertisement(into, &path6(), address6(1), flags));
    let message = "IPv6(src='fd00::1',dst='ff02::2',hlim=255)/ICMPv6ND_RS()";
    let option = "ICMPv6NDOptSrcLLAddr(lladdr='02:00:00:00:00:01')";
    let expression = format!("Ether(src='02:00:00:00:00:01',dst='33:33:00:00:00:02')/{message}/{option}");
    scapy.agrees(&expression, |into| build::router_solicitation(into, MACS.0, address6(1)));
}

fn tunnels(scapy: &mut Scapy) {
    let vni = Vni::new(0x0012_3456).unwrap();
    for (inner, inside) in families() {
        let expression = format!("{ETHER}/{inside}/UDP(sport=1,dport=2)/{}", raw(b"inside"));
        let bytes = frame(|into| build::udp(into, &inner, Ports::new(1, 2), b"inside")).unwrap();
        for (outer, outside) in families() {
            let sum = if outer == path4() { ",chksum=0" } else { "" };
            let udp = format!("UDP(sport=50000,dport=4789{sum})/VXLAN(flags=8,vni=0x123456)");
            let expression = format!("{ETHER}/{outside}/{udp}/{expression}");
            scapy.agrees(&expression, |into| build::vxlan(into, &outer, 50_000, vni, &bytes));
        }
    }
}

/// The IPv6 packet of an expression, and whether its UDP checksum is right where we find its transport.
fn transport_of(scapy: &mut Scapy, extensions: &str) -> (ipv6::Transport, usize) {
    let bytes = scapy.bytes(&format!("{IP6}/{extensions}/UDP(sport=5,dport=6)/Raw(b'payload')"));
    let (ip, found) = Ipv6::parse(&bytes).unwrap();
    let segment = &bytes[found.offset..];
    let (udp, payload) = Udp::parse(segment).unwrap();
    assert_eq!((udp.src.get(), udp.dst.get(), payload), (5, 6, &b"payload"[..]));
    assert_eq!(ip.pseudo(found.protocol, segment.len().try_into().unwrap()).bytes(segment).checksum(), 0);
    assert_eq!(bytes[found.named_at], found.protocol.0);
    (found, bytes.len())
}

fn extension_headers(scapy: &mut Scapy) {
    let hop = "IPv6ExtHdrHopByHop(options=[RouterAlert()])";
    let options = "IPv6ExtHdrDestOpt(options=[PadN(optdata=b'x'*20)])";
    let routing = "IPv6ExtHdrRouting(type=2,addresses=['fd00::9'],segleft=0)";
    let part = "IPv6ExtHdrFragment(id=99,offset=0,m=0)";
    let chains = [
        hop.into(),
        format!("{options}/{routing}"),
        format!("{hop}/{options}/{routing}/{part}/{options}"),
        part.into(),
    ];
    for chain in chains {
        let (found, len) = transport_of(scapy, &chain);
        assert_eq!((found.protocol, found.offset), (Protocol::UDP, len - 15), "{chain}");
        assert_eq!(
            found.fragment.map(|part| (part.id.get(), part.is_whole())).is_some(),
            chain.contains(part),
            "{chain}"
        );
    }
    let source_route = format!("{IP6}/IPv6ExtHdrRouting(type=0,addresses=['fd00::9'],segleft=1)/UDP()");
    assert_eq!(Ipv6::parse(&scapy.bytes(&source_route)).err(), Some(ipv6::Malformed::SourceRoute));
    let misplaced = format!("{IP6}/{options}/{hop}/UDP()");
    assert_eq!(Ipv6::parse(&scapy.bytes(&misplaced)).err(), Some(ipv6::Malformed::Order));
}

fn fragments(scapy: &mut Scapy) {
    let mut at = 0;
    for part in 0..3 {
        let whole = "IP(src='10.0.0.1',dst='10.0.0.2',id=77)/UDP(sport=5,dport=6)/Raw(b'a'*3000)";
        let bytes = scapy.bytes(&format!("fragment({whole},fragsize=1400)[{part}]"));
        let (ip, _) = Ipv4::parse(&bytes).unwrap();
        assert!(ip.is_fragment() && ip.id.get() == 77 && ip.protocol == Protocol::UDP);
        assert_eq!((ip.fragment_offset(), ip.more_fragments(), ip.is_later_fragment()), (at, part < 2, part > 0));
        at += ip.payload_len();
    }
    assert_eq!(at, 3008);
    let mut at = 0;
    for part in 0..3 {
        let whole = format!("{IP6}/IPv6ExtHdrFragment(id=99)/UDP(sport=5,dport=6)/Raw(b'a'*3000)");
        let bytes = scapy.bytes(&format!("fragment6({whole},1280)[{part}]"));
        let (ip, found) = Ipv6::parse(&bytes).unwrap();
        let fragment = found.fragment.unwrap();
        assert_eq!((found.protocol, found.offset, fragment.id.get()), (Protocol::UDP, 48, 99));
        assert_eq!((fragment.offset(), fragment.more_fragments(), fragment.is_whole()), (at, part < 2, false));
        at += ip.total_len() - found.offset;
    }
    assert_eq!(at, 3008);
}

fn ipv4_options(scapy: &mut Scapy) {
    let ip = "IP(src='10.0.0.1',dst='10.0.0.2',options=[IPOption_Router_Alert()])";
    let bytes = scapy.bytes(&format!("{ETHER}/{ip}/UDP(sport=5,dport=6)/Raw(b'x')"));
    let (ip, options) = Ipv4::parse(&bytes[14..]).unwrap();
    assert_eq!((ip.header_len(), options, ip.payload_len()), (24, &[0x94, 4, 0, 0][..], 9));
    assert!(describe(&bytes).contains("10.0.0.1.5 > 10.0.0.2.6: UDP, length 1"), "{}", describe(&bytes));
}

fn tcp_options(scapy: &mut Scapy) {
    let options = "[('NOP',None),('NOP',None),('SAck',(1,2,3,4)),('Timestamp',(5,6)),('WScale',9),('MSS',1300)]";
    let bytes = scapy.bytes(&format!("{ETHER}/{IP4}/TCP(flags='PAFRSUEC',options={options})/Raw(b'xyz')"));
    let (header, found, payload) = Tcp::parse(&bytes[34..]).unwrap();
    assert_eq!((header.flags, payload), (Flags(0xff), &b"xyz"[..]));
    let mut blocks = [0; 16];
    for (to, number) in blocks.chunks_mut(4).zip(1_u32..) {
        to.copy_from_slice(&number.to_be_bytes());
    }
    let expected = [
        TcpOption::Sack(&blocks),
        TcpOption::Timestamps(5, 6),
        TcpOption::WindowScale(9),
        TcpOption::MaxSegmentSize(1300),
    ];
    let read: Vec<_> = tcp::options(found).filter(|option| *option != TcpOption::Nothing).collect();
    assert_eq!(read, expected);
    assert_eq!(tcp::find_mss(found).map(|at| &found[at..at + 2]), Some(&1300_u16.to_be_bytes()[..]));
}

fn quotes(scapy: &mut Scapy) {
    let error = "ICMP(type=3,code=4,nexthopmtu=1400)/IP(src='10.0.0.2',dst='10.0.0.1')/TCP(sport=5,dport=6)";
    let bytes = scapy.bytes(&format!("{IP4}/{error}"));
    let (header, rest) = Icmp::ref_from_prefix(&bytes[20..]).unwrap();
    let quote = icmp::quoted(rest).unwrap();
    assert!(header.is_too_big() && header.mtu() == 1400 && header.kind.is_error());
    assert_eq!((quote.ip.src.get(), quote.ip.protocol, quote.offset), (0x0a00_0002, Protocol::TCP, 20));
    assert_eq!(Ports::ref_from_prefix(quote.transport).unwrap().0, &Ports::new(5, 6));
    let inside = "IPv6(src='fd00::2',dst='fd00::1')/IPv6ExtHdrDestOpt()/UDP(sport=5,dport=6)";
    let bytes = scapy.bytes(&format!("{IP6}/ICMPv6PacketTooBig(mtu=1400)/{inside}"));
    let (header, rest) = Icmpv6::ref_from_prefix(&bytes[40..]).unwrap();
    let quote = icmpv6::quoted(rest).unwrap();
    assert_eq!((header.kind, header.mtu()), (icmpv6::Kind::TOO_BIG, 1400));
    assert_eq!((quote.ip.src, quote.found.protocol, quote.found.offset), (address6(2), Protocol::UDP, 48));
    assert_eq!(Ports::ref_from_prefix(quote.transport).unwrap().0, &Ports::new(5, 6));
}

fn tunnelled(scapy: &mut Scapy) {
    let inner = format!("{ETHER}/{IP4}/ICMP(type=8,id=1,seq=2)");
    let bytes =
        scapy.bytes(&format!("{ETHER}/Dot1Q(vlan=5)/{IP6}/UDP(sport=50000,dport=4789)/VXLAN(vni=70000)/{inner}"));
    let at = ethernet::carried(&bytes).unwrap();
    assert_eq!((at.ethertype, at.offset, at.vlan), (EtherType::IPV6, 18, Some(5)));
    let (_, payload) = Udp::parse(&bytes[58..]).unwrap();
    let (tunnel, inside) = Vxlan::ref_from_prefix(payload).unwrap();
    assert_eq!((tunnel.vni(), inside), (Vni::new(70_000), &scapy.bytes(&inner)[..]));
    let line = describe(&bytes);
    assert!(line.contains("VXLAN vni 70000: ") && line.ends_with("ICMP echo request, id 1, seq 2, length 8"), "{line}");
}

fn translation(scapy: &mut Scapy) {
    let before = |transport: &str| format!("IP(src='10.0.0.1',dst='10.96.0.10',id=3,ttl=64)/{transport}");
    let after = |transport: &str| format!("IP(src='10.0.0.1',dst='10.0.5.7',id=3,ttl=63)/{transport}");
    for kind in ["TCP", "UDP"] {
        let payload = raw(&noise(99, 5));
        let mut bytes = scapy.bytes(&before(&format!("{kind}(sport=40000,dport=80)/{payload}")));
        let (ip, rest) = Ipv4::mut_from_prefix(&mut bytes).unwrap();
        let delta = ip.rewrite_dst(U32::new(0x0a00_0507)).and(Delta::u16(80, 8080));
        assert!(ip.decrement_ttl());
        Ports::mut_from_prefix(rest).unwrap().0.dst = U16::new(8080);
        if kind == "TCP" {
            let (tcp, _) = Tcp::mut_from_prefix(rest).unwrap();
            tcp.checksum = delta.apply(tcp.checksum);
        } else {
            let (udp, _) = Udp::mut_from_prefix(rest).unwrap();
            udp.checksum = delta.apply_udp(udp.checksum);
        }
        assert_eq!(bytes, scapy.bytes(&after(&format!("{kind}(sport=40000,dport=8080)/{payload}"))));
    }
    let mut bytes = scapy.bytes(&format!("{IP6}/TCP(sport=40000,dport=80)/Raw(b'odd')"));
    let (ip, rest) = Ipv6::mut_from_prefix(&mut bytes).unwrap();
    let (tcp, _) = Tcp::mut_from_prefix(rest).unwrap();
    tcp.checksum = ip.rewrite_dst(address6(0xbeef)).apply(tcp.checksum);
    assert_eq!(
        bytes,
        scapy.bytes("IPv6(src='fd00::1',dst='fd00::beef',hlim=64)/TCP(sport=40000,dport=80)/Raw(b'odd')")
    );
}

fn partial_checksums(scapy: &mut Scapy) {
    for (protocol, field) in [(Protocol::TCP, 16), (Protocol::UDP, 6)] {
        let kind = if protocol == Protocol::TCP { "TCP" } else { "UDP" };
        let expected = scapy.bytes(&format!("{ETHER}/{IP6}/{kind}(sport=1,dport=2)/{}", raw(&noise(1001, 2))));
        let mut bytes = expected.clone();
        let (ip, segment) = Ipv6::ref_from_prefix(&expected[14..]).unwrap();
        let sum = ip.pseudo(protocol, segment.len().try_into().unwrap()).folded();
        bytes[54 + field..56 + field].copy_from_slice(U16::new(sum).as_bytes());
        assert_ne!(bytes, expected);
        checksum::complete(&mut bytes, 54, field).unwrap();
        assert_eq!(bytes, expected);
    }
}

fn clamp(scapy: &mut Scapy) {
    for pads in ["", "('NOP',None),"] {
        let with = |mss: u16| {
            let options = format!("[{pads}('MSS',{mss}),('WScale',7)]");
            format!("{IP4}/TCP(sport=1,dport=2,flags='S',options={options})")
        };
        let mut bytes = scapy.bytes(&with(1460));
        assert!(tcp::clamp_mss(&mut bytes[20..], 1350));
        assert_eq!(bytes, scapy.bytes(&with(1350)));
        assert!(!tcp::clamp_mss(&mut bytes[20..], 1350));
    }
}
