//! The steering program: which packets are ours.
//!
//! The first two headers of each packet it reads where they lie, for speed. All else it asks the kernel for
//! (`bpf_xdp_load_bytes`), so a header may lie anywhere, even in a later buffer of a long packet. What it cannot read
//! passes: the host knows best what to do with it.
use super::asm::{Asm, AsmError, If, Label, Op, Reg, Width};
use super::maps::{Descriptors, V4, V6};

/// What the program counts, in this order. A packet counts as one of the first five, and as dropped besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Left to the host.
    Passed,
    /// By a tunnel's address and port.
    Tunnel,
    /// To a pod.
    Pod,
    /// An ICMP error that quotes a packet of ours.
    Quoted,
    /// A fragment whose first one was ours.
    Fragment,
    /// Ours, but no socket was there to take it.
    Dropped,
}

/// The number of [`Kind`]s.
pub(super) const KINDS: usize = 6;

/// Shared mode: what is ours goes to the socket of its queue, or is dropped where there is none; the rest passes.
pub(super) fn shared(maps: &Descriptors) -> Result<Vec<u64>, AsmError> {
    let mut p = Program::new(maps);
    p.begin();
    let (v4, v6) = (p.asm.label(), p.asm.label());
    p.reach(ETHERNET);
    p.asm.load(Width::Half, Reg::R1, Reg::R2, 12);
    p.asm.jump_if(If::Equal, Reg::R1, net16(0x0800), v4);
    p.asm.jump_if(If::Equal, Reg::R1, net16(0x86dd), v6);
    p.asm.jump(p.pass);
    p.asm.place(v4);
    p.ipv4();
    p.asm.place(v6);
    p.ipv6();
    p.udp();
    p.follow();
    p.ours();
    p.end_pass();
    p.asm.finish()
}

/// Owned mode: everything goes to the socket of its queue, or to the host where there is none.
pub(super) fn owned(maps: &Descriptors) -> Result<Vec<u64>, AsmError> {
    let mut p = Program::new(maps);
    p.begin();
    p.redirect(PASS);
    p.asm.jump_if(If::Equal, Reg::R0, REDIRECT, p.ours);
    p.asm.jump(p.pass);
    p.asm.place(p.ours);
    p.asm.op(Op::Set, Reg::R8, Kind::Pod as i32);
    p.count();
    p.asm.op(Op::Set, Reg::R0, REDIRECT);
    p.asm.exit();
    p.end_pass();
    p.asm.finish()
}

/// r6 is the packet, r7 where the next header begins, r8 the protocol and later the [`Kind`], r9 whether this is a
/// first fragment whose others must follow it.
struct Program<'a> {
    asm: Asm,
    maps: &'a Descriptors,
    pass: Label,
    ours: Label,
    follow: Label,
    udp: Label,
}

impl<'a> Program<'a> {
    fn new(maps: &'a Descriptors) -> Self {
        let mut asm = Asm::default();
        let [pass, ours, follow, udp] = std::array::from_fn(|_| asm.label());
        Program { asm, maps, pass, ours, follow, udp }
    }

    fn begin(&mut self) {
        self.asm.copy(Reg::R6, Reg::R1);
        self.asm.op(Op::Set, Reg::R7, ETHERNET);
        self.asm.op(Op::Set, Reg::R9, 0);
    }

    fn ipv4(&mut self) {
        self.head(ETHERNET, IP, &[Width::Double, Width::Double, Width::Word]);
        self.behind4(IP);
        self.pod4(IP + 16, Kind::Pod);
        for at in [0, 8, 16, 24] {
            self.asm.put(Width::Double, FRAGMENT + at, 0);
        }
        self.move4(IP + 12, FRAGMENT + 12);
        self.move4(IP + 16, FRAGMENT + 28);
        self.asm.load(Width::Half, Reg::R1, Reg::Stack, IP + 4);
        self.asm.store(Width::Word, Reg::Stack, FRAGMENT + 32, Reg::R1);
        self.asm.load(Width::Byte, Reg::R8, Reg::Stack, IP + 9);
        self.asm.copy(Reg::R1, Reg::R8);
        self.asm.op(Op::Add, Reg::R1, i32::from(V4) << 8);
        self.asm.store(Width::Word, Reg::Stack, FRAGMENT + 36, Reg::R1);
        self.asm.put(Width::Half, TUNNEL + 18, V4.into());
        self.asm.load(Width::Half, Reg::R1, Reg::Stack, IP + 6);
        self.asm.jump_if(If::AnyBit, Reg::R1, net16(0x1fff), self.follow);
        self.first_fragment(net16(0x2000));
        self.asm.jump_if(If::Equal, Reg::R8, UDP, self.udp);
        self.asm.jump_if(If::Not, Reg::R8, ICMP, self.pass);
        self.quoted4();
    }

    // Destination unreachable, time exceeded, parameter problem (RFC 792): behind 8 bytes lies the packet they are
    // about.
    fn quoted4(&mut self) {
        let error = self.asm.label();
        self.bytes(L4, 8);
        self.asm.load(Width::Byte, Reg::R1, Reg::Stack, L4);
        for kind in [3, 11, 12] {
            self.asm.jump_if(If::Equal, Reg::R1, kind, error);
        }
        self.asm.jump(self.pass);
        self.asm.place(error);
        self.asm.op(Op::Add, Reg::R7, 8);
        self.bytes(QUOTED, 20);
        self.behind4(QUOTED);
        self.pod4(QUOTED + 12, Kind::Quoted);
        self.asm.load(Width::Half, Reg::R1, Reg::Stack, QUOTED + 6);
        self.asm.jump_if(If::AnyBit, Reg::R1, net16(0x1fff), self.pass);
        self.asm.load(Width::Byte, Reg::R1, Reg::Stack, QUOTED + 9);
        self.asm.jump_if(If::Not, Reg::R1, UDP, self.pass);
        self.bytes(L4, 4);
        self.asm.put(Width::Double, TUNNEL, 0);
        self.asm.put(Width::Double, TUNNEL + 8, 0);
        self.move4(QUOTED + 12, TUNNEL + 12);
        self.tunnel(Kind::Quoted);
    }

    fn ipv6(&mut self) {
        self.head(ETHERNET, IP, &[Width::Double; 5]);
        self.behind6(IP);
        self.pod6(IP + 24, Kind::Pod);
        self.move16(IP + 8, FRAGMENT);
        self.move16(IP + 24, FRAGMENT + 16);
        self.asm.put(Width::Word, FRAGMENT + 32, 0);
        self.asm.put(Width::Word, FRAGMENT + 36, i32::from(V6) << 8);
        self.asm.put(Width::Half, TUNNEL + 18, V6.into());
        self.asm.load(Width::Byte, Reg::R8, Reg::Stack, IP + 6);
        let walked = self.asm.label();
        for _ in 0..EXTENSIONS {
            self.extension(walked);
        }
        self.asm.place(walked);
        self.asm.jump_if(If::Equal, Reg::R8, UDP, self.udp);
        self.asm.jump_if(If::Not, Reg::R8, ICMPV6, self.pass);
        self.quoted6();
    }

    // One step over hop-by-hop options, routing, destination options, or a fragment header (RFC 8200 section 4).
    fn extension(&mut self, walked: Label) {
        let [options, fragment, next] = std::array::from_fn(|_| self.asm.label());
        for header in [0, 43, 60] {
            self.asm.jump_if(If::Equal, Reg::R8, header, options);
        }
        self.asm.jump_if(If::Equal, Reg::R8, FRAGMENT_HEADER, fragment);
        self.asm.jump(walked);
        self.asm.place(options);
        self.bytes(L4, 2);
        self.asm.load(Width::Byte, Reg::R8, Reg::Stack, L4);
        self.asm.load(Width::Byte, Reg::R1, Reg::Stack, L4 + 1);
        self.asm.op(Op::Add, Reg::R1, 1);
        self.asm.op(Op::ShiftLeft, Reg::R1, 3);
        self.asm.add(Reg::R7, Reg::R1);
        self.asm.jump(next);
        self.asm.place(fragment);
        self.bytes(L4, 8);
        self.asm.load(Width::Byte, Reg::R8, Reg::Stack, L4);
        self.move4(L4 + 4, FRAGMENT + 32);
        self.asm.op(Op::Add, Reg::R7, 8);
        self.asm.load(Width::Half, Reg::R1, Reg::Stack, L4 + 2);
        self.asm.jump_if(If::AnyBit, Reg::R1, net16(0xfff8), self.follow);
        self.first_fragment(net16(1));
        self.asm.place(next);
    }

    // Types 1 to 4 are the errors (RFC 4443). What they quote may be a first fragment of ours.
    fn quoted6(&mut self) {
        let plain = self.asm.label();
        self.bytes(L4, 8);
        self.asm.load(Width::Byte, Reg::R1, Reg::Stack, L4);
        self.asm.jump_if(If::Equal, Reg::R1, 0, self.pass);
        let error = self.asm.label();
        self.asm.jump_if(If::Below, Reg::R1, 5, error);
        self.asm.jump(self.pass);
        self.asm.place(error);
        self.asm.op(Op::Add, Reg::R7, 8);
        self.bytes(QUOTED, 40);
        self.behind6(QUOTED);
        self.pod6(QUOTED + 8, Kind::Quoted);
        self.asm.load(Width::Byte, Reg::R8, Reg::Stack, QUOTED + 6);
        self.asm.jump_if(If::Not, Reg::R8, FRAGMENT_HEADER, plain);
        self.bytes(L4, 8);
        self.asm.load(Width::Half, Reg::R1, Reg::Stack, L4 + 2);
        self.asm.jump_if(If::AnyBit, Reg::R1, net16(0xfff8), self.pass);
        self.asm.load(Width::Byte, Reg::R8, Reg::Stack, L4);
        self.asm.op(Op::Add, Reg::R7, 8);
        self.asm.place(plain);
        self.asm.jump_if(If::Not, Reg::R8, UDP, self.pass);
        self.bytes(L4, 4);
        self.move16(QUOTED + 8, TUNNEL);
        self.tunnel(Kind::Quoted);
    }

    // A UDP header at r7, of either family: ours when its destination is one of our tunnels. It nearly always begins
    // where no option or extension is in front of it.
    fn udp(&mut self) {
        let read = self.asm.label();
        self.asm.place(self.udp);
        for at in [ETHERNET + 20, ETHERNET + 40] {
            let elsewhere = self.asm.label();
            self.asm.jump_if(If::Not, Reg::R7, at, elsewhere);
            self.head(at, L4, &[Width::Double]);
            self.asm.jump(read);
            self.asm.place(elsewhere);
        }
        self.bytes(L4, 8);
        self.asm.place(read);
        self.move16(FRAGMENT + 16, TUNNEL);
        self.tunnel(Kind::Tunnel);
    }

    // A fragment that is not the first: it goes where the first went.
    fn follow(&mut self) {
        self.asm.place(self.follow);
        self.asm.op(Op::Set, Reg::R9, 0);
        self.lookup(self.maps.fragments, FRAGMENT);
        self.ours_if_found(Kind::Fragment);
        self.asm.jump(self.pass);
    }

    fn ours(&mut self) {
        let alone = self.asm.label();
        let taken = self.asm.label();
        self.asm.place(self.ours);
        self.asm.jump_if(If::Equal, Reg::R9, 0, alone);
        self.asm.put(Width::Word, ONE, 1);
        self.asm.map(Reg::R1, self.maps.fragments);
        self.address(Reg::R2, FRAGMENT);
        self.address(Reg::R3, ONE);
        self.asm.op(Op::Set, Reg::R4, 0);
        self.asm.call(MAP_UPDATE);
        self.asm.place(alone);
        self.count();
        self.redirect(DROP);
        self.asm.jump_if(If::Equal, Reg::R0, REDIRECT, taken);
        self.asm.op(Op::Set, Reg::R8, Kind::Dropped as i32);
        self.count();
        self.asm.op(Op::Set, Reg::R0, DROP);
        self.asm.place(taken);
        self.asm.exit();
    }

    fn end_pass(&mut self) {
        self.asm.place(self.pass);
        self.asm.op(Op::Set, Reg::R8, Kind::Passed as i32);
        self.count();
        self.asm.op(Op::Set, Reg::R0, PASS);
        self.asm.exit();
    }

    /// Checks version and length of the IPv4 header at `at`, and moves r7 behind it.
    fn behind4(&mut self, at: i16) {
        self.asm.load(Width::Byte, Reg::R1, Reg::Stack, at);
        self.asm.copy(Reg::R2, Reg::R1);
        self.asm.op(Op::ShiftRight, Reg::R2, 4);
        self.asm.jump_if(If::Not, Reg::R2, 4, self.pass);
        self.asm.op(Op::And, Reg::R1, 15);
        self.asm.jump_if(If::Below, Reg::R1, 5, self.pass);
        self.asm.op(Op::ShiftLeft, Reg::R1, 2);
        self.asm.add(Reg::R7, Reg::R1);
    }

    /// Checks the version of the IPv6 header at `at`, and moves r7 behind it.
    fn behind6(&mut self, at: i16) {
        self.asm.load(Width::Byte, Reg::R1, Reg::Stack, at);
        self.asm.op(Op::ShiftRight, Reg::R1, 4);
        self.asm.jump_if(If::Not, Reg::R1, 6, self.pass);
        self.asm.op(Op::Add, Reg::R7, 40);
    }

    /// Ours when the address at `at` is in a pod prefix.
    fn pod4(&mut self, at: i16, kind: Kind) {
        self.asm.put(Width::Word, PREFIX, 32);
        self.move4(at, PREFIX + 4);
        self.lookup(self.maps.pods4, PREFIX);
        self.ours_if_found(kind);
    }

    /// Ours when the address at `at` is in a pod prefix.
    fn pod6(&mut self, at: i16, kind: Kind) {
        self.asm.put(Width::Word, PREFIX, 128);
        for word in [0, 4, 8, 12] {
            self.move4(at + word, PREFIX + 4 + word);
        }
        self.lookup(self.maps.pods6, PREFIX);
        self.ours_if_found(kind);
    }

    /// Ours when the address in the key and the destination port at `L4` are a tunnel's; else the host's.
    fn tunnel(&mut self, kind: Kind) {
        self.asm.load(Width::Half, Reg::R1, Reg::Stack, L4 + 2);
        self.asm.store(Width::Half, Reg::Stack, TUNNEL + 16, Reg::R1);
        self.lookup(self.maps.tunnels, TUNNEL);
        self.ours_if_found(kind);
        self.asm.jump(self.pass);
    }

    /// r9 = 1 when r1, the field with the flags, says that more fragments follow.
    fn first_fragment(&mut self, more: i32) {
        let (set, done) = (self.asm.label(), self.asm.label());
        self.asm.jump_if(If::AnyBit, Reg::R1, more, set);
        self.asm.jump(done);
        self.asm.place(set);
        self.asm.op(Op::Set, Reg::R9, 1);
        self.asm.place(done);
    }

    /// r2 = the packet, of which `len` bytes can be read where they lie; a shorter one passes.
    fn reach(&mut self, len: i32) {
        self.asm.load(Width::Word, Reg::R2, Reg::R6, 0); // xdp_md.data
        self.asm.load(Width::Word, Reg::R3, Reg::R6, 4); // xdp_md.data_end
        self.asm.copy(Reg::R1, Reg::R2);
        self.asm.op(Op::Add, Reg::R1, len);
        self.asm.jump_if_above(Reg::R1, Reg::R3, self.pass);
    }

    /// Copies the header that begins `from` bytes into the packet to the stack.
    fn head(&mut self, from: i32, to: i16, pieces: &[Width]) {
        let len = |piece: &Width| match piece {
            Width::Double => 8,
            Width::Word => 4,
            Width::Half => 2,
            Width::Byte => 1,
        };
        self.reach(from + pieces.iter().map(|piece| i32::from(len(piece))).sum::<i32>());
        self.asm.op(Op::Add, Reg::R2, from);
        let mut at = 0;
        for piece in pieces {
            self.asm.load(*piece, Reg::R1, Reg::R2, at);
            self.asm.store(*piece, Reg::Stack, to + at, Reg::R1);
            at += len(piece);
        }
    }

    /// Reads `len` bytes of the packet at r7 to the stack; a packet that is too short passes.
    fn bytes(&mut self, to: i16, len: i32) {
        self.asm.copy(Reg::R1, Reg::R6);
        self.asm.copy(Reg::R2, Reg::R7);
        self.address(Reg::R3, to);
        self.asm.op(Op::Set, Reg::R4, len);
        self.asm.call(XDP_LOAD_BYTES);
        self.asm.jump_if(If::Not, Reg::R0, 0, self.pass);
    }

    fn lookup(&mut self, map: i32, key: i16) {
        self.asm.map(Reg::R1, map);
        self.address(Reg::R2, key);
        self.asm.call(MAP_LOOKUP);
    }

    fn ours_if_found(&mut self, kind: Kind) {
        let missing = self.asm.label();
        self.asm.jump_if(If::Equal, Reg::R0, 0, missing);
        self.asm.op(Op::Set, Reg::R8, kind as i32);
        self.asm.jump(self.ours);
        self.asm.place(missing);
    }

    /// Adds one to the counter that r8 names.
    fn count(&mut self) {
        let none = self.asm.label();
        self.asm.store(Width::Word, Reg::Stack, COUNTER, Reg::R8);
        self.lookup(self.maps.counters, COUNTER);
        self.asm.jump_if(If::Equal, Reg::R0, 0, none);
        self.asm.load(Width::Double, Reg::R1, Reg::R0, 0);
        self.asm.op(Op::Add, Reg::R1, 1);
        self.asm.store(Width::Double, Reg::R0, 0, Reg::R1);
        self.asm.place(none);
    }

    /// r0 = what becomes of the packet: its queue's socket takes it, else `otherwise`.
    fn redirect(&mut self, otherwise: i32) {
        self.asm.map(Reg::R1, self.maps.sockets);
        self.asm.load(Width::Word, Reg::R2, Reg::R6, 16); // xdp_md.rx_queue_index
        self.asm.op(Op::Set, Reg::R3, otherwise);
        self.asm.call(REDIRECT_MAP);
    }

    fn address(&mut self, to: Reg, at: i16) {
        self.asm.copy(to, Reg::Stack);
        self.asm.op(Op::Add, to, at.into());
    }

    fn move4(&mut self, from: i16, to: i16) {
        self.asm.load(Width::Word, Reg::R1, Reg::Stack, from);
        self.asm.store(Width::Word, Reg::Stack, to, Reg::R1);
    }

    fn move16(&mut self, from: i16, to: i16) {
        for at in [0, 8] {
            self.asm.load(Width::Double, Reg::R1, Reg::Stack, from + at);
            self.asm.store(Width::Double, Reg::Stack, to + at, Reg::R1);
        }
    }
}

/// A field of 16 bits as it is loaded from the packet, in network byte order.
fn net16(value: u16) -> i32 {
    i32::from(value.to_be())
}

// The stack, from its end.
const IP: i16 = -40;
const L4: i16 = -48;
const QUOTED: i16 = -88;
const TUNNEL: i16 = -112; // maps::tunnel_key
const FRAGMENT: i16 = -152; // source, destination, id, family and protocol
const PREFIX: i16 = -176; // maps::prefix_key
const COUNTER: i16 = -180;
const ONE: i16 = -184;

const ETHERNET: i32 = 14;
const EXTENSIONS: usize = 3; // two with options, one that fragments; who sends more is left to the host
const ICMP: i32 = 1;
const UDP: i32 = 17;
const FRAGMENT_HEADER: i32 = 44;
const ICMPV6: i32 = 58;

// linux/bpf.h: enum bpf_func_id, enum xdp_action.
const MAP_LOOKUP: i32 = 1;
const MAP_UPDATE: i32 = 2;
const REDIRECT_MAP: i32 = 51;
const XDP_LOAD_BYTES: i32 = 189;
const DROP: i32 = 1;
const PASS: i32 = 2;
const REDIRECT: i32 = 4;
