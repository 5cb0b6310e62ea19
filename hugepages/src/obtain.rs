//! How a region is obtained: kinds of pages from the best down, files, and what peers hand over.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use crate::error::{Errno, KindFault, MapError, ObjectFault, Shortfall};
use crate::kind::{PageKind, Want};
use crate::map::{self, Advice, Mapping, Source};
use crate::object::Object;
use crate::pools::{Pools, pools};
use crate::region::{Backing, Got, Received, Region, Settings};

/// Maps what the settings ask for.
pub(crate) fn map(settings: &Settings) -> Result<Region, MapError> {
    let host = pools();
    if settings.bytes == 0 || !settings.bytes.is_multiple_of(PageKind::Plain.size()) {
        return Err(MapError::Size { bytes: settings.bytes });
    }
    if let Some(node) = settings.numa_node.filter(|node| !host.nodes.is_empty() && !host.nodes.contains(node)) {
        return Err(MapError::NoSuchNode { node, online: host.nodes });
    }
    match &settings.backing {
        Backing::File { path } => open(path, settings, &host),
        Backing::Anonymous | Backing::Memfd { .. } => strictly(settings, descend(settings, &host)?),
    }
}

/// Maps an object that another process made.
pub(crate) fn receive(received: Received) -> Result<Region, MapError> {
    let Received { fd, name, bytes, require_sealed, lock } = received;
    let object = Object { file: File::from(fd), name, bytes };
    let pages = object.file_system()?;
    if bytes == 0 || !bytes.is_multiple_of(pages.size()) {
        return Err(MapError::Size { bytes });
    }
    if require_sealed && !map::cannot_shrink(object.file.as_fd()) {
        return Err(object.fault(ObjectFault::Unsealed));
    }
    object.expect_size()?;
    let claim = object.claim()?;
    let settings = Settings { lock, ..Settings::new(bytes) };
    let kinds = if pages.is_hugetlb() { pages } else { PageKind::Transparent };
    let source = Source::Object(object.file.as_fd());
    let laid = lay(source, kinds, &settings, IfPlain::Note).map_err(|fault| fault.into_error(kinds, bytes))?;
    let sealed = map::cannot_shrink(object.file.as_fd());
    let got = Got { existing: true, sealed, ..laid.got };
    Ok(Region { mapping: laid.mapping, fd: Some(object.file.into()), claim: Some(claim), got })
}

/// Tries the kinds from the best down, and notes why each was not to be had.
fn descend(settings: &Settings, host: &Pools) -> Result<Region, MapError> {
    let mut missed = Vec::new();
    let mut last = MapError::Size { bytes: settings.bytes };
    for kind in settings.want.kinds(settings.bytes, host) {
        match rung(kind, settings, host) {
            Ok(mut region) => {
                region.got.shortfalls.splice(0..0, missed);
                return Ok(region);
            }
            Err(Fault::Kind(fault)) => {
                last = MapError::Kind { kind, bytes: settings.bytes, fault: fault.clone() };
                missed.push(Shortfall::Kind { kind, fault });
            }
            Err(Fault::Map(error)) => return Err(error),
        }
    }
    Err(last)
}

/// Maps anonymous memory or a memfd on one kind of pages.
fn rung(kind: PageKind, settings: &Settings, host: &Pools) -> Result<Region, Fault> {
    possible(kind, settings, host)?;
    let huge = kind.is_hugetlb().then(|| kind.size().trailing_zeros());
    let Backing::Memfd { name } = &settings.backing else {
        let laid = lay(Source::Anonymous { huge }, kind, settings, IfPlain::Fault)?;
        return Ok(Region { mapping: laid.mapping, fd: None, claim: None, got: Got { sealed: true, ..laid.got } });
    };
    let system = |call| move |errno| Fault::Map(MapError::System { call, errno });
    let c_name = CString::new(name.as_str()).map_err(|_| system("memfd_create")(Errno(libc::EINVAL)))?;
    let fd = match map::memfd(&c_name, huge) {
        Ok(fd) => fd,
        Err(errno) if huge.is_some() => return Err(Fault::Kind(refused(errno))),
        Err(errno) => return Err(system("memfd_create")(errno)),
    };
    let object = Object { file: File::from(fd), name: name.clone(), bytes: settings.bytes };
    object.file.set_len(settings.bytes as u64).map_err(|error| system("ftruncate")(Errno::of(&error)))?;
    let claim = object.claim().map_err(Fault::Map)?;
    let laid = lay(Source::Object(object.file.as_fd()), kind, settings, IfPlain::Fault)?;
    let mut got = laid.got;
    match map::seal(object.file.as_fd()) {
        Ok(()) => got.sealed = true,
        Err(errno) => got.shortfalls.push(Shortfall::NotSealed { errno }),
    }
    Ok(Region { mapping: laid.mapping, fd: Some(object.file.into()), claim: Some(claim), got })
}

/// Whether a kind is worth trying at all.
fn possible(kind: PageKind, settings: &Settings, host: &Pools) -> Result<(), Fault> {
    let bytes = settings.bytes;
    let (memory, mode) = match settings.backing {
        Backing::Anonymous => ("anonymous", host.anonymous),
        Backing::Memfd { .. } | Backing::File { .. } => ("shared", host.shared),
    };
    let fault = match kind {
        PageKind::Plain => return Ok(()),
        PageKind::Transparent if bytes < kind.size() => KindFault::WrongSize { bytes },
        PageKind::Transparent if mode.can() => return Ok(()),
        PageKind::Transparent => KindFault::Off { memory, mode },
        PageKind::Huge2M | PageKind::Huge1G if host.pool(kind).is_none() => KindFault::NoPool,
        PageKind::Huge2M | PageKind::Huge1G if !bytes.is_multiple_of(kind.size()) => KindFault::WrongSize { bytes },
        PageKind::Huge2M | PageKind::Huge1G => return Ok(()),
    };
    Err(Fault::Kind(fault))
}

/// Opens or creates a file and maps it.
fn open(path: &Path, settings: &Settings, host: &Pools) -> Result<Region, MapError> {
    let (object, existing) = Object::open(path, settings.bytes)?;
    let region = map_file(object, existing, settings, host).and_then(|region| strictly(settings, region));
    if region.is_err() && !existing {
        // What this call created must not stay behind: the next start would take it for an old one.
        let _ = fs::remove_file(path);
    }
    region
}

/// Maps a file, whose file system decides the kind of pages.
fn map_file(object: Object, existing: bool, settings: &Settings, host: &Pools) -> Result<Region, MapError> {
    let kind = file_kind(object.file_system()?, settings)?;
    if existing {
        object.expect_size()?;
    }
    let claim = object.claim()?;
    object.file.set_len(settings.bytes as u64).map_err(|error| object.refused(&error))?;
    let settings = Settings { prefault: true, ..settings.clone() };
    let source = Source::Object(object.file.as_fd());
    let if_plain = if settings.want == Want::Only(kind) { IfPlain::Fault } else { IfPlain::Note };
    let laid = lay(source, kind, &settings, if_plain).map_err(|fault| fault.into_error(kind, settings.bytes))?;
    let mut got = Got { existing, ..laid.got };
    if let Some(&best) = settings.want.kinds(settings.bytes, host).first()
        && best > got.kind
        && best.is_hugetlb()
    {
        got.shortfalls.insert(0, Shortfall::Kind { kind: best, fault: KindFault::FileSystem(got.kind) });
    }
    Ok(Region { mapping: laid.mapping, fd: Some(object.file.into()), claim: Some(claim), got })
}

/// Refuses a region that lacks something which strict settings require.
fn strictly(settings: &Settings, region: Region) -> Result<Region, MapError> {
    let lacks = |shortfall: &&Shortfall| !matches!(shortfall, Shortfall::Kind { .. } | Shortfall::PartlyHuge { .. });
    match region.got.shortfalls.iter().find(lacks) {
        Some(shortfall) if settings.strict => Err(MapError::Strict(shortfall.clone())),
        _ => Ok(region),
    }
}

/// The kind of pages to ask of a file system, if the settings accept it.
fn file_kind(pages: PageKind, settings: &Settings) -> Result<PageKind, MapError> {
    let bytes = settings.bytes;
    let fails = |kind, fault| Err(MapError::Kind { kind, bytes, fault });
    let tried = match settings.want {
        Want::Only(kind) if kind.is_hugetlb() || pages.is_hugetlb() => kind,
        Want::Only(kind) | Want::AtMost(kind) if !pages.is_hugetlb() => kind.min(PageKind::Transparent),
        Want::AtMost(largest) if largest < pages => largest,
        _ if pages.is_hugetlb() => pages,
        _ => PageKind::Transparent,
    };
    match tried {
        kind if kind.is_hugetlb() != pages.is_hugetlb() => fails(kind, KindFault::FileSystem(pages)),
        kind if kind.is_hugetlb() && kind != pages => fails(kind, KindFault::FileSystem(pages)),
        kind if kind.is_hugetlb() && !bytes.is_multiple_of(kind.size()) => fails(kind, KindFault::WrongSize { bytes }),
        kind => Ok(kind),
    }
}

/// Whether transparent pages that the kernel does not give are a fault, or plain pages with a note.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IfPlain {
    Fault,
    Note,
}

/// A mapping and what it came to be.
struct Laid {
    mapping: Mapping,
    got: Got,
}

/// Maps a source on one kind of pages and does what the settings ask beyond: place, prefault, count, lock.
fn lay(source: Source<'_>, kind: PageKind, settings: &Settings, if_plain: IfPlain) -> Result<Laid, Fault> {
    let bytes = settings.bytes;
    let align = kind.size().max(PageKind::Huge2M.size());
    let mapping = Mapping::new(source, bytes, align).map_err(|errno| Fault::Kind(no_pages(kind, settings, errno)))?;
    let mut got = Got { asked: settings.want, kind, bytes, ..EMPTY };
    match kind {
        // A kernel without transparent pages refuses; then the pages are plain, which is counted below.
        PageKind::Transparent => drop(mapping.advise(Advice::HugePages)),
        PageKind::Plain => drop(mapping.advise(Advice::NoHugePages)),
        PageKind::Huge2M | PageKind::Huge1G => {}
    }
    if let Some(node) = settings.numa_node {
        match mapping.bind(node) {
            Ok(()) => got.numa_node = Some(node),
            Err(errno) => got.shortfalls.push(Shortfall::NotBound { node, errno }),
        }
    }
    if settings.prefault || kind.is_hugetlb() {
        match mapping.advise(Advice::Populate) {
            Ok(()) => got.prefaulted = true,
            Err(errno @ Errno(libc::EINVAL)) => got.shortfalls.push(Shortfall::NotPrefaulted { errno }),
            Err(errno) => return Err(Fault::Kind(no_pages(kind, settings, errno))),
        }
    }
    count_huge(&mapping, &mut got, if_plain)?;
    if kind.is_hugetlb() {
        got.locked = true;
    } else if settings.lock {
        match mapping.lock() {
            Ok(()) => got.locked = true,
            Err(errno) => got.shortfalls.push(Shortfall::NotLocked { limit: lock_limit(), errno }),
        }
    }
    Ok(Laid { mapping, got })
}

/// Corrects what was hoped for by what the kernel counts.
fn count_huge(mapping: &Mapping, got: &mut Got, if_plain: IfPlain) -> Result<(), Fault> {
    if got.kind != PageKind::Transparent || !got.prefaulted {
        got.huge = got.prefaulted.then_some(if got.kind.is_hugetlb() { got.bytes } else { 0 });
        return Ok(());
    }
    let huge = huge_bytes(mapping.start().addr().get(), got.bytes);
    got.huge = Some(huge);
    let whole = got.bytes - got.bytes % got.kind.size();
    if huge == 0 {
        if if_plain == IfPlain::Fault {
            return Err(Fault::Kind(KindFault::NoneGiven));
        }
        got.kind = PageKind::Plain;
        got.shortfalls.push(Shortfall::Kind { kind: PageKind::Transparent, fault: KindFault::NoneGiven });
    } else if huge < whole {
        got.shortfalls.push(Shortfall::PartlyHuge { huge, bytes: got.bytes });
    }
    Ok(())
}

/// Bytes on transparent pages in a range, from smaps.
fn huge_bytes(start: usize, bytes: usize) -> usize {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let mut inside = false;
    let mut kib = 0;
    for line in smaps.lines() {
        let first = line.split_ascii_whitespace().next().unwrap_or_default();
        if let Some((from, to)) = first.split_once('-') {
            let address = |hex| usize::from_str_radix(hex, 16).unwrap_or_default();
            inside = address(from) >= start && address(to) <= start + bytes;
        } else if inside && matches!(first, "AnonHugePages:" | "ShmemPmdMapped:" | "FilePmdMapped:") {
            kib += line.split_ascii_whitespace().nth(1).and_then(|count| count.parse().ok()).unwrap_or(0usize);
        }
    }
    kib << 10
}

/// Why pages of a kind were not given, from the error number and the state of the pool.
fn no_pages(kind: PageKind, settings: &Settings, errno: Errno) -> KindFault {
    let host = pools();
    let on_node = |node| host.pool(kind)?.nodes.iter().find(|part| part.node == node).map(|part| part.free);
    let free = settings.numa_node.and_then(on_node).unwrap_or_else(|| host.available(kind));
    let needed = settings.bytes / kind.size();
    if kind.is_hugetlb() && !errno.is_permission() && free < needed {
        return KindFault::OutOfPages { needed, free };
    }
    refused(errno)
}

fn refused(errno: Errno) -> KindFault {
    if errno.is_permission() { KindFault::NoPermission(errno) } else { KindFault::Refused(errno) }
}

/// The soft limit of locked memory, as the kernel writes it.
fn lock_limit() -> Option<String> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    line.split_ascii_whitespace().next().map(str::to_owned)
}

/// A fault of one kind of pages, after which another is tried, or one of the whole.
enum Fault {
    Kind(KindFault),
    Map(MapError),
}

impl Fault {
    fn into_error(self, kind: PageKind, bytes: usize) -> MapError {
        match self {
            Fault::Kind(fault) => MapError::Kind { kind, bytes, fault },
            Fault::Map(error) => error,
        }
    }
}

/// Nothing yet.
const EMPTY: Got = Got {
    asked: Want::Best,
    kind: PageKind::Plain,
    bytes: 0,
    huge: None,
    locked: false,
    prefaulted: false,
    sealed: false,
    numa_node: None,
    existing: false,
    shortfalls: Vec::new(),
};
