//! `record`: a device around another one that writes what passes to a pcapng file, on a thread of its own.
#![expect(
    clippy::disallowed_types,
    reason = "queues only try the bounded channels: whoever waits is the thread that writes"
)]
use engine::{Abilities, Device, Frames, LinkState, OpenError, Packet, Queue};
use pcap_file::{
    DataLink, PcapError,
    pcapng::{
        PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
        },
    },
};
use std::{
    borrow::Cow,
    io::{self, Write},
    os::fd::BorrowedFd,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::Duration,
};

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct RecordSettings {
    /// The most bytes of a packet.
    pub snap: u16,
    /// How many packets of a queue may wait for the file; those on top are not recorded, and counted.
    pub depth: usize,
    /// Gives the time since 1970; called once a batch.
    pub clock: fn() -> Duration,
}

/// The device.
pub struct Record {
    device: Box<dyn Device>,
    settings: RecordSettings,
    out: Box<dyn Write + Send>,
    done: SyncSender<io::Result<()>>,
}

/// The end of a recording.
pub struct Recording(Receiver<io::Result<()>>);

impl Recording {
    /// Waits until every queue is dropped and everything is written.
    pub fn finish(self) -> io::Result<()> {
        self.0.recv().unwrap_or(Ok(())) // never opened
    }
}

impl Record {
    /// `device` with all that its queues receive and send written to `out`. Each queue is an interface of the file.
    pub fn new(device: Box<dyn Device>, settings: RecordSettings, out: Box<dyn Write + Send>) -> (Self, Recording) {
        let (done, recording) = sync_channel(1);
        (Record { device, settings, out, done }, Recording(recording))
    }
}

impl Device for Record {
    fn open(self: Box<Self>, workers: &mut [Frames]) -> Result<Vec<Box<dyn Queue>>, OpenError> {
        let Record { device, settings, out, done } = *self;
        let queues = device.open(workers)?;
        let (to_file, captured) = sync_channel(settings.depth * queues.len().max(1));
        let mut empty = Vec::new();
        let mut recorded: Vec<Box<dyn Queue>> = Vec::new();
        for (queue, number) in queues.into_iter().zip(0..) {
            let (back, spare) = sync_channel(settings.depth);
            for _ in 0..settings.depth {
                let bytes = Vec::with_capacity(settings.snap.into());
                let _room = back.try_send(Captured { queue: number, bytes, ..Captured::default() });
            }
            empty.push(back);
            let (batch, unused) = (Vec::with_capacity(settings.depth), Vec::with_capacity(settings.depth));
            let to_file = to_file.clone();
            recorded.push(Box::new(RecordQueue { queue, settings, spare, to_file, batch, unused, missed: 0 }));
        }
        let write = move || {
            let _nobody_waits = done.send(write(out, settings.snap, &captured, &empty).map_err(io::Error::other));
        };
        let started = std::thread::Builder::new().name("record".into()).spawn(write);
        let refused =
            |source| OpenError::System { port: "record".into(), step: "start the thread that writes", source };
        started.map_err(refused)?;
        Ok(recorded)
    }
}

#[derive(Default)]
struct Captured {
    queue: u32,
    at: Duration,
    sent: bool,
    len: usize,
    bytes: Vec<u8>,
}

struct RecordQueue {
    queue: Box<dyn Queue>,
    settings: RecordSettings,
    spare: Receiver<Captured>, // written, to be used again: a warm worker allocates nothing
    to_file: SyncSender<Captured>,
    batch: Vec<Captured>, // may yet turn out not to be sent
    unused: Vec<Captured>,
    missed: u64,
}

impl RecordQueue {
    /// Copies packets until buffers run out.
    fn capture(&mut self, packets: &[Packet], sent: bool) {
        if packets.is_empty() {
            return;
        }
        let at = (self.settings.clock)();
        for packet in packets {
            let Some(mut captured) = self.unused.pop().or_else(|| self.spare.try_recv().ok()) else { return };
            let bytes = packet.data().get(..self.settings.snap.into()).unwrap_or(packet.data());
            captured.bytes.clear();
            captured.bytes.extend_from_slice(bytes);
            (captured.at, captured.sent, captured.len) = (at, sent, packet.len());
            self.batch.push(captured);
        }
    }

    /// Gives the first `n` captured packets to the file; the others were not sent.
    fn commit(&mut self, n: usize) {
        self.missed += n.saturating_sub(self.batch.len()) as u64;
        let n = n.min(self.batch.len());
        for captured in self.batch.drain(..n) {
            self.missed += u64::from(self.to_file.try_send(captured).is_err()); // the file cannot be written
        }
        self.unused.append(&mut self.batch);
    }
}

impl Queue for RecordQueue {
    fn receive(&mut self, frames: &mut Frames, into: &mut Vec<Packet>, room: usize) {
        let before = into.len();
        self.queue.receive(frames, into, room);
        let received = into.get(before..).unwrap_or_default();
        self.capture(received, false);
        self.commit(received.len());
    }

    fn send(&mut self, frames: &mut Frames, from: &mut Vec<Packet>) {
        let before = from.len();
        self.capture(from, true);
        self.queue.send(frames, from);
        self.commit(before.saturating_sub(from.len()));
    }

    fn can(&self) -> Abilities {
        self.queue.can()
    }

    fn wake(&self) -> Option<BorrowedFd<'_>> {
        self.queue.wake()
    }

    fn rest(&mut self, frames: &mut Frames) -> bool {
        self.queue.rest(frames)
    }

    fn link(&mut self) -> LinkState {
        self.queue.link()
    }

    fn events(&self) -> Vec<(&'static str, u64)> {
        let mut events = self.queue.events();
        events.push(("record_missed", self.missed));
        events
    }

    fn close(&mut self, frames: &mut Frames) {
        self.queue.close(frames);
    }
}

/// Writes until every queue is dropped.
fn write(
    out: Box<dyn Write + Send>,
    snap: u16,
    captured: &Receiver<Captured>,
    empty: &[SyncSender<Captured>],
) -> Result<(), PcapError> {
    let mut file = PcapNgWriter::new(io::BufWriter::new(out))?;
    for _ in empty {
        let options = vec![InterfaceDescriptionOption::IfTsResol(9)]; // nanoseconds
        let linktype = DataLink::ETHERNET;
        file.write_pcapng_block(InterfaceDescriptionBlock { linktype, snaplen: snap.into(), options })?;
    }
    while let Ok(next) = captured.recv() {
        // pcapng, section 4.3.1: bits 0 and 1 of the flags are 1 for inbound, 2 for outbound.
        let flags = EnhancedPacketOption::Flags(if next.sent { 2 } else { 1 });
        file.write_pcapng_block(EnhancedPacketBlock {
            interface_id: next.queue,
            timestamp: next.at,
            original_len: u32::try_from(next.len).unwrap_or(u32::MAX),
            data: Cow::Borrowed(&next.bytes),
            options: vec![flags],
        })?;
        if let Some(back) = empty.get(next.queue as usize) {
            let _closed = back.try_send(next);
        }
    }
    file.get_mut().flush().map_err(PcapError::IoError)?;
    Ok(())
}
