//! What regions promise, on whatever pages this host has. Tests that need reserved pages reserve a few and give them
//! back; without the right to do so they say `SKIP`.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hugepages::{
    Backing, KindFault, MapError, ObjectFault, PageKind, Received, Region, Settings, Shortfall, Want, leak_slice,
    pools, reserve,
};

#[test]
fn a_plain_memfd_cannot_change_its_size() {
    let region = Region::map(memfd(Want::Only(PageKind::Plain), 1 << 20)).unwrap();
    assert_size_is_fixed(&region);
    assert_eq!(region.got().kind, PageKind::Plain);
    assert_eq!(region.got().shortfalls, []);
    assert_eq!(region.got().pages(), 256);
}

#[test]
fn pages_are_taken_at_once_or_at_first_touch() {
    let taken = |region: &Region| {
        let file = File::from(region.fd().unwrap().try_clone_to_owned().unwrap());
        (region.got().prefaulted, file.metadata().unwrap().blocks() * 512)
    };
    let settings = memfd(Want::Only(PageKind::Plain), 1 << 20);
    assert_eq!(taken(&Region::map(settings.clone()).unwrap()), (true, 1 << 20));
    let mut lazy = Region::map(Settings { prefault: false, ..settings }).unwrap();
    assert_eq!(taken(&lazy), (false, 0));
    lazy.bytes_mut()[0] = 1;
    assert_eq!(taken(&lazy), (false, 4096));
}

#[test]
fn a_huge_memfd_cannot_change_its_size() {
    let _pool = alone();
    let Some(_pages) = Pages::reserve("a_huge_memfd_cannot_change_its_size", 2) else { return };
    let mut region = Region::map(memfd(Want::Best, 2 * MIB2)).unwrap();
    assert_eq!(region.got().kind, PageKind::Huge2M);
    assert_eq!(region.got().shortfalls, []);
    assert_eq!((region.got().locked, region.got().prefaulted, region.got().pages()), (true, true, 2));
    assert_size_is_fixed(&region);
    region.bytes_mut().fill(7);
    assert!(region.bytes().iter().all(|byte| *byte == 7));
}

#[test]
fn private_memory_takes_huge_pages_too_and_gives_them_back() {
    let _pool = alone();
    let Some(_pages) = Pages::reserve("private_memory_takes_huge_pages", 2) else { return };
    let settings = Settings { want: Want::Only(PageKind::Huge2M), ..Settings::new(2 * MIB2) };
    for _ in 0..=pools().available(PageKind::Huge2M) / 2 {
        let region = Region::map(settings.clone()).unwrap();
        assert_eq!((region.got().kind, region.got().huge), (PageKind::Huge2M, Some(2 * MIB2)));
    }
}

#[test]
fn too_few_pages_are_said_with_numbers() {
    let _pool = alone();
    if pools().pool(PageKind::Huge2M).is_none() {
        return skip("too_few_pages_are_said_with_numbers", "this kernel has no pool of 2 MiB pages");
    }
    let free = pools().available(PageKind::Huge2M);
    let bytes = (free + 1) * MIB2;
    let fault = KindFault::OutOfPages { needed: free + 1, free };
    let kind = PageKind::Huge2M;
    for backing in [Backing::Anonymous, Backing::Memfd { name: "few".into() }] {
        let settings = Settings { backing, ..Settings::new(bytes) };
        let region = Region::map(settings.clone()).unwrap();
        assert_ne!(region.got().kind, kind);
        assert_eq!(region.got().shortfalls[0], Shortfall::Kind { kind, fault: fault.clone() });
        let error = Region::map(Settings { want: Want::Only(kind), ..settings }).unwrap_err();
        assert_eq!(error, MapError::Kind { kind, bytes, fault: fault.clone() });
    }
    assert_eq!(pools().available(kind), free, "a failed attempt keeps no page");
}

#[test]
fn each_step_down_is_noted() {
    let bytes = MIB2 + 4096;
    let region = Region::map(memfd(Want::AtMost(PageKind::Huge2M), bytes)).unwrap();
    let kinds: Vec<PageKind> = region.got().shortfalls.iter().filter_map(missed).collect();
    let expected: &[PageKind] = match region.got().kind {
        PageKind::Plain => &[PageKind::Huge2M, PageKind::Transparent],
        PageKind::Transparent => &[PageKind::Huge2M],
        kind => panic!("{kind} pages for {bytes} bytes"),
    };
    assert_eq!(kinds, expected);
}

#[test]
fn transparent_pages_are_counted_not_hoped_for() {
    let name = "transparent_pages_are_counted_not_hoped_for";
    if !pools().anonymous.can() {
        return skip(name, "transparent pages are switched off");
    }
    let settings = Settings { want: Want::Only(PageKind::Transparent), ..Settings::new(2 * MIB2) };
    match Region::map(settings) {
        Ok(region) => {
            let huge = region.got().huge.unwrap();
            assert!(huge == 2 * MIB2 || region.got().shortfalls == [Shortfall::PartlyHuge { huge, bytes: 2 * MIB2 }]);
            assert!(huge > 0);
        }
        Err(MapError::Kind { fault: KindFault::NoneGiven, .. }) => skip(name, "memory is fragmented"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn wrong_sizes_are_refused() {
    for bytes in [0, 1, 4095, 4097, usize::MAX] {
        assert_eq!(Region::map(Settings::new(bytes)).unwrap_err(), MapError::Size { bytes });
    }
    let beyond = usize::MAX & !4095;
    assert!(matches!(Region::map(Settings::new(beyond)), Err(MapError::Kind { kind: PageKind::Plain, .. })));
    for (kind, bytes) in [(PageKind::Huge2M, MIB2 + 4096), (PageKind::Huge1G, MIB2)] {
        if pools().pool(kind).is_some() {
            let error = Region::map(Settings { want: Want::Only(kind), ..Settings::new(bytes) }).unwrap_err();
            assert_eq!(error, MapError::Kind { kind, bytes, fault: KindFault::WrongSize { bytes } });
        }
    }
}

#[test]
fn an_unknown_numa_node_is_refused() {
    let online = pools().nodes;
    if online.is_empty() {
        return skip("an_unknown_numa_node_is_refused", "this kernel shows no NUMA nodes");
    }
    let error = Region::map(Settings { numa_node: Some(1000), ..Settings::new(4096) }).unwrap_err();
    assert_eq!(error, MapError::NoSuchNode { node: 1000, online: online.clone() });
    let region = Region::map(Settings { numa_node: Some(online[0]), ..plain(4096) }).unwrap();
    let bound = region.got().numa_node == Some(online[0]);
    assert!(bound || matches!(region.got().shortfalls[..], [Shortfall::NotBound { .. }]));
}

/// Two processes: this test starts itself again, with the descriptor as its input.
#[test]
fn a_peer_sees_the_same_bytes() {
    const BYTES: usize = 64 << 10;
    if std::env::var_os("MILLRACE_TEST_PEER").is_some() {
        let fd = io::stdin().as_fd().try_clone_to_owned().unwrap();
        let mut region = Region::from_fd(received(fd, BYTES, true)).unwrap();
        assert!(region.got().existing && region.got().sealed);
        assert_eq!(region.bytes()[BYTES - 1], 42);
        region.bytes_mut()[0] = 43;
        return;
    }
    let mut region = Region::map(memfd(Want::Only(PageKind::Plain), BYTES)).unwrap();
    region.bytes_mut()[BYTES - 1] = 42;
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_peer_sees_the_same_bytes", "--nocapture"])
        .env("MILLRACE_TEST_PEER", "1")
        .stdin(Stdio::from(region.fd().unwrap().try_clone_to_owned().unwrap()))
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(region.cells()[0].load(Ordering::Relaxed), 43);
    assert_eq!(region.bytes()[0], 43);
}

#[test]
fn an_object_has_one_owner_in_a_process() {
    let region = Region::map(memfd(Want::Only(PageKind::Plain), 4096)).unwrap();
    let copy = || region.fd().unwrap().try_clone_to_owned().unwrap();
    let refused = Region::from_fd(received(copy(), 4096, true)).unwrap_err();
    assert_eq!(object_fault(refused), ObjectFault::AlreadyMapped);
    let (first, second) = (copy(), copy());
    drop(region.into_fd());
    let again = Region::from_fd(received(first, 4096, true)).unwrap();
    again.leak();
    let refused = Region::from_fd(received(second, 4096, true)).unwrap_err();
    assert_eq!(object_fault(refused), ObjectFault::AlreadyMapped, "leaked memory keeps its owner");
}

#[test]
fn a_received_object_is_checked() {
    let Some(folder) = Folder::on_tmpfs("received") else { return };
    let open = |bytes| {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(folder.path("x")).unwrap();
        file.set_len(bytes).unwrap();
        OwnedFd::from(file)
    };
    let fault = |fd, bytes, sealed| object_fault(Region::from_fd(received(fd, bytes, sealed)).unwrap_err());
    assert_eq!(fault(open(8192), 8192, true), ObjectFault::Unsealed);
    assert_eq!(fault(open(4096), 8192, false), ObjectFault::Size { has: 4096, wanted: 8192 });
    let region = Region::from_fd(received(open(8192), 8192, false)).unwrap();
    assert!(!region.got().sealed);
    let no_memory = File::open("/proc/self/maps").unwrap();
    assert_eq!(fault(no_memory.into(), 4096, false), ObjectFault::NotMemory);
}

#[test]
fn a_file_outlives_its_region() {
    let Some(folder) = Folder::on_tmpfs("file") else { return };
    let path = folder.path("flows");
    let settings = Settings { backing: Backing::File { path: path.clone() }, ..Settings::new(8192) };
    let mut first = Region::map(settings.clone()).unwrap();
    assert!(!first.got().existing);
    assert!(first.bytes().iter().all(|byte| *byte == 0));
    first.bytes_mut()[8191] = 9;
    let refused = Region::map(settings.clone()).unwrap_err();
    assert_eq!(object_fault(refused), ObjectFault::AlreadyMapped);
    drop(first);
    let again = Region::map(settings.clone()).unwrap();
    assert!(again.got().existing);
    assert_eq!(again.bytes()[8191], 9);
    drop(again);
    let refused = Region::map(Settings { bytes: 4096, ..settings }).unwrap_err();
    assert_eq!(object_fault(refused), ObjectFault::Size { has: 8192, wanted: 4096 });
    let file = File::open(&path).unwrap();
    let mut last = [0];
    file.read_exact_at(&mut last, 8191).unwrap();
    assert_eq!((file.metadata().unwrap().mode() & 0o777, last), (0o600, [9]), "the refused file is as it was");
}

#[test]
fn a_file_is_refused_where_it_is_no_memory() {
    let Some(folder) = Folder::on_tmpfs("refused") else { return };
    let map = |path: PathBuf, want| Region::map(Settings { backing: Backing::File { path }, want, ..plain(MIB2) });
    let target = folder.path("target");
    fs::write(&target, "precious").unwrap();
    let link = folder.path("link");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    assert!(matches!(object_fault(map(link, Want::Best).unwrap_err()), ObjectFault::Refused(_)));
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    let missing = folder.path("missing/file");
    assert!(matches!(object_fault(map(missing, Want::Best).unwrap_err()), ObjectFault::Refused(_)));
    let huge = folder.path("huge");
    let (kind, bytes, fault) = (PageKind::Huge2M, MIB2, KindFault::FileSystem(PageKind::Plain));
    let error = map(huge.clone(), Want::Only(kind)).unwrap_err();
    assert_eq!(error, MapError::Kind { kind, bytes, fault });
    assert!(!huge.exists(), "a failed call leaves no file");
    let folder_itself = object_fault(map(folder.0.clone(), Want::Best).unwrap_err());
    assert!(matches!(folder_itself, ObjectFault::Refused(_)));
    let on_disk = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("region-{}", std::process::id()));
    match map(on_disk.clone(), Want::Best) {
        Ok(_) => skip("a_file_is_refused_where_it_is_no_memory", "the target folder lies in memory"),
        Err(error) => assert_eq!(object_fault(error), ObjectFault::NotMemory),
    }
    let _ = fs::remove_file(&on_disk);
}

#[test]
fn a_huge_file_outlives_its_region() {
    let name = "a_huge_file_outlives_its_region";
    let _pool = alone();
    let Some(_pages) = Pages::reserve(name, 2) else { return };
    let Some(mount) = Mount::hugetlbfs(name) else { return };
    let backing = Backing::File { path: mount.0.join("flows") };
    let settings = Settings { backing, ..Settings::new(2 * MIB2) };
    let mut first = Region::map(settings.clone()).unwrap();
    assert_eq!((first.got().kind, &first.got().shortfalls[..]), (PageKind::Huge2M, &[][..]));
    first.bytes_mut()[2 * MIB2 - 1] = 9;
    drop(first);
    let again = Region::map(settings.clone()).unwrap();
    assert_eq!((again.got().existing, again.bytes()[2 * MIB2 - 1]), (true, 9));
    let other = Backing::File { path: mount.0.join("odd") };
    let (kind, bytes) = (PageKind::Huge2M, MIB2 + 4096);
    let error = Region::map(Settings { bytes, backing: other, ..settings }).unwrap_err();
    assert_eq!(error, MapError::Kind { kind, bytes, fault: KindFault::WrongSize { bytes } });
}

#[test]
fn slices_are_zeroed_and_aligned() {
    let (words, got) = leak_slice::<u64>(1000, plain(0)).unwrap();
    assert_eq!((words.len(), got.bytes), (1000, 8192));
    assert!(words.iter().all(|word| *word == 0));
    assert_eq!(words.as_ptr().addr() % MIB2, 0);
    let (words, got) = leak_slice::<u64>(300_000, plain(0)).unwrap();
    assert_eq!((words.len(), got.bytes), (300_000, 2 * MIB2));
    assert!(leak_slice::<u64>(usize::MAX, plain(0)).is_err());
    assert!(Region::map(plain(4096)).unwrap().leak_slice::<u64>(513).is_err());
    assert_eq!(Region::map(plain(4096)).unwrap().leak_slice::<u64>(512).unwrap().len(), 512);
}

fn plain(bytes: usize) -> Settings {
    Settings { want: Want::Only(PageKind::Plain), ..Settings::new(bytes) }
}

fn memfd(want: Want, bytes: usize) -> Settings {
    Settings { want, backing: Backing::Memfd { name: "test".into() }, ..Settings::new(bytes) }
}

fn received(fd: OwnedFd, bytes: usize, require_sealed: bool) -> Received {
    Received { fd, name: "received".into(), bytes, require_sealed, lock: false }
}

fn object_fault(error: MapError) -> ObjectFault {
    match error {
        MapError::Object { fault, .. } => fault,
        other => panic!("{other:?}"),
    }
}

fn missed(shortfall: &Shortfall) -> Option<PageKind> {
    if let Shortfall::Kind { kind, .. } = shortfall { Some(*kind) } else { None }
}

fn assert_size_is_fixed(region: &Region) {
    assert!(region.got().sealed);
    let file = File::from(region.fd().unwrap().try_clone_to_owned().unwrap());
    for bytes in [0, region.len() as u64 * 2] {
        assert_eq!(file.set_len(bytes).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
    assert_eq!(file.metadata().unwrap().len(), region.len() as u64);
}

fn skip(name: &str, reason: &str) {
    println!("SKIP {name}: {reason}");
}

/// Tests that count the pages of the host run one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static POOL: Mutex<()> = Mutex::new(());
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pages added to the host's pool, taken back when dropped.
struct Pages(usize);

impl Pages {
    fn reserve(name: &str, count: usize) -> Option<Pages> {
        let host = pools();
        let Some(before) = host.pool(PageKind::Huge2M).map(|pool| pool.total - pool.surplus) else {
            skip(name, "this kernel has no pool of 2 MiB pages");
            return None;
        };
        match reserve(MIB2, before + count, None) {
            Ok(done) => {
                let pages = Pages(before);
                if done.is_whole() {
                    return Some(pages);
                }
                skip(name, "memory is fragmented");
            }
            Err(error) => skip(name, &error.to_string()),
        }
        None
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let _ = reserve(MIB2, self.0, None);
    }
}

/// A folder of its own in memory, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn on_tmpfs(name: &str) -> Option<Folder> {
        let path = Path::new("/dev/shm").join(format!("millrace-{name}-{}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) => Some(Folder(path)),
            Err(error) => {
                skip(name, &format!("{}: {error}", path.display()));
                None
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A hugetlbfs of its own, unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    fn hugetlbfs(name: &str) -> Option<Mount> {
        let mount = Mount(std::env::temp_dir().join(format!("millrace-hugetlbfs-{}", std::process::id())));
        fs::create_dir(&mount.0).unwrap();
        let call = Command::new("mount").args(["-t", "hugetlbfs", "-o", "pagesize=2M", "none"]).arg(&mount.0).status();
        if call.is_ok_and(|status| status.success()) {
            return Some(mount);
        }
        skip(name, "cannot mount a hugetlbfs");
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a mapping that a failed test still holds must not keep the mount, and with it its pages.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).stderr(Stdio::null()).status();
        let _ = fs::remove_dir(&self.0);
    }
}

const MIB2: usize = 2 << 20;

#[test]
fn a_mapping_that_is_refused_takes_no_other_threads_memory() {
    // Without reserved pages each of these is refused 2 MiB pages first. Where the kernel left a hole, the stack of a
    // thread that starts at that moment may come to lie.
    let map =
        || (0..60).for_each(|_| drop(Region::map(Settings { prefault: false, ..Settings::new(4 << 20) }).unwrap()));
    let live = || {
        for _ in 0..60 {
            std::thread::spawn(|| {
                std::hint::black_box([1_u8; 64 << 10]).iter().map(|byte| u64::from(*byte)).sum::<u64>()
            })
            .join()
            .unwrap();
        }
    };
    std::thread::scope(|scope| {
        (0..3).for_each(|_| drop(scope.spawn(map)));
        (0..3).for_each(|_| drop(scope.spawn(live)));
    });
}
