//! Traffic between namespaces, by the kernel's own sockets.
use crate::{PATIENCE, Space, succeeds, until};
use std::{
    io::{self, BufRead as _, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

const TICK: Duration = Duration::from_millis(20);
/// How long one datagram or line may be on its way before it is taken for lost.
const ROUND: Duration = Duration::from_secs(2);

/// Pings until there is an answer of `size` bytes of payload.
///
/// # Panics
/// When there is none in time.
pub fn ping(from: &Space, to: IpAddr, size: u32) {
    let (size_text, to_text) = (size.to_string(), to.to_string());
    until(&format!("a ping of {size} bytes from {} to {to}", from.name()), || {
        succeeds(from.command("ping").args(["-n", "-c", "1", "-W", "1", "-s", &size_text, &to_text]))
    });
}

/// Sends `length` bytes by TCP and compares the checksum that the receiver answers.
///
/// # Panics
/// When it cannot, or they differ.
pub fn tcp(from: &Space, to: &Space, at: IpAddr, length: usize) {
    let (ready, bound) = mpsc::channel();
    let server = to.spawn(move || -> io::Result<()> {
        let listener = TcpListener::bind((at, 0))?;
        ready.send(listener.local_addr()?).unwrap();
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        stream.write_all(&checksum(&bytes).to_be_bytes())
    });
    let at = bound.recv().expect("the receiver cannot listen");
    let what = format!("TCP from {} to {at}", from.name());
    let answer = from.inside(move || -> io::Result<[u8; 8]> {
        let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&payload(length))?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    });
    let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
    server.join().unwrap().unwrap_or_else(|error| panic!("{what}, receiver: {error}"));
    assert_eq!(u64::from_be_bytes(answer), checksum(&payload(length)), "{what}: other bytes arrived");
}

/// Sends datagrams of `sizes` bytes by UDP and compares what comes back from an echo. Each may be lost a few times.
///
/// # Panics
/// When one does not come back as it went.
pub fn udp(from: &Space, to: &Space, at: IpAddr, sizes: &'static [usize]) {
    const TRIES: u32 = 5;
    let server = EchoServer::udp(to, SocketAddr::new(at, 0));
    let there = server.address;
    from.inside(move || {
        let socket = UdpSocket::bind((any(at), 0)).unwrap();
        socket.connect(there).unwrap();
        socket.set_read_timeout(Some(ROUND)).unwrap();
        for &size in sizes {
            let bytes = payload(size);
            let returned = (0..TRIES).any(|_| {
                let mut answer = vec![0; 65_536];
                socket.send(&bytes).unwrap_or_else(|error| panic!("UDP of {size} bytes: {error}"));
                matches!(socket.recv(&mut answer), Ok(count) if answer.get(..count) == Some(bytes.as_slice()))
            });
            assert!(returned, "UDP of {size} bytes to {there} does not come back");
        }
    });
}

/// Echoes what it gets, until it is dropped.
pub struct EchoServer {
    /// Where it listens.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EchoServer {
    /// By TCP, one peer at a time.
    pub fn tcp(space: &Space, at: SocketAddr) -> Self {
        Self::start(space, move |ready, stop| {
            let listener = TcpListener::bind(at).unwrap();
            listener.set_nonblocking(true).unwrap();
            ready.send(listener.local_addr().unwrap()).unwrap();
            while !stop.load(SeqCst) {
                match listener.accept() {
                    Ok((stream, _)) => echo(stream, stop),
                    Err(_) => std::thread::sleep(TICK),
                }
            }
        })
    }

    /// By UDP.
    pub fn udp(space: &Space, at: SocketAddr) -> Self {
        Self::start(space, move |ready, stop| {
            let socket = UdpSocket::bind(at).unwrap();
            socket.set_read_timeout(Some(TICK)).unwrap();
            ready.send(socket.local_addr().unwrap()).unwrap();
            let mut bytes = vec![0; 65_536];
            while !stop.load(SeqCst) {
                if let Ok((count, peer)) = socket.recv_from(&mut bytes) {
                    let _may_be_lost = socket.send_to(bytes.get(..count).unwrap_or_default(), peer);
                }
            }
        })
    }

    fn start(space: &Space, work: impl FnOnce(mpsc::Sender<SocketAddr>, &AtomicBool) + Send + 'static) -> Self {
        let (ready, bound) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = space.spawn({
            let stop = stop.clone();
            move || work(ready, &stop)
        });
        EchoServer { address: bound.recv().expect("the echo cannot listen"), stop, thread: Some(thread) }
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

/// One TCP connection that says lines and waits for each to be echoed, like someone at a shell, until it is ended.
pub struct Chat {
    stop: Arc<AtomicBool>,
    lines: Arc<AtomicU64>,
    thread: JoinHandle<io::Result<()>>,
}

impl Chat {
    /// Connects to an echo.
    pub fn start(from: &Space, to: SocketAddr) -> Self {
        let (stop, lines) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = from.spawn({
            let (stop, lines) = (stop.clone(), lines.clone());
            move || chat(to, &stop, &lines)
        });
        Chat { stop, lines, thread }
    }

    /// How many lines have come back.
    pub fn lines(&self) -> u64 {
        self.lines.load(SeqCst)
    }

    /// Waits until some more lines have come back: the connection lives.
    ///
    /// # Panics
    /// When it does not.
    pub fn goes_on(&self, when: &str) {
        const MORE: u64 = 5;
        let before = self.lines();
        until(&format!("the TCP connection goes on {when}"), || {
            assert!(!self.thread.is_finished(), "the TCP connection broke {when}");
            self.lines() >= before + MORE
        });
    }

    /// Ends it in good order.
    ///
    /// # Panics
    /// When the connection had broken.
    pub fn end(self) {
        self.stop.store(true, SeqCst);
        self.thread.join().unwrap().unwrap();
    }
}

/// Datagrams to an address where nobody need answer, until it is dropped.
pub struct UdpStream {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpStream {
    /// Begins; `from` is the sender's own address.
    pub fn start(space: &Space, from: IpAddr, to: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = space.spawn({
            let stop = stop.clone();
            move || {
                let socket = UdpSocket::bind((from, 0)).unwrap();
                while !stop.load(SeqCst) {
                    let _told_of_errors_by_the_capture = socket.send_to(b"lab", to);
                    std::thread::sleep(TICK);
                }
            }
        });
        UdpStream { stop, thread: Some(thread) }
    }
}

impl Drop for UdpStream {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

fn chat(to: SocketAddr, stop: &AtomicBool, lines: &AtomicU64) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    while !stop.load(SeqCst) {
        let line = format!("line {}\n", lines.load(SeqCst));
        stream.write_all(line.as_bytes())?;
        let mut answer = String::new();
        answers.read_line(&mut answer)?;
        if answer != line {
            return Err(io::Error::other(format!("{answer:?} came back for {line:?}")));
        }
        lines.fetch_add(1, SeqCst);
        std::thread::sleep(TICK);
    }
    Ok(())
}

fn echo(mut stream: TcpStream, stop: &AtomicBool) {
    let mut bytes = [0; 4096];
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(TICK)).unwrap();
    while !stop.load(SeqCst) {
        match stream.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) if stream.write_all(bytes.get(..count).unwrap_or_default()).is_err() => return,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}

fn any(like: IpAddr) -> IpAddr {
    if like.is_ipv6() { IpAddr::from([0u16; 8]) } else { IpAddr::from([0u8; 4]) }
}

/// Bytes that repeat at no power of two, so that a frame in the wrong place shows.
fn payload(length: usize) -> Vec<u8> {
    (0..251u8).cycle().take(length).zip(0usize..).map(|(byte, at)| byte ^ (at >> 12).to_le_bytes()[0]).collect()
}

/// FNV-1a, 64 bit.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
