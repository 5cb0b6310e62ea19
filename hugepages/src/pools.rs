//! The host's pages: hugetlb pools by size and node, and the modes of transparent pages.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Errno, PoolError};
use crate::kind::PageKind;

/// Reads the host's pages from sysfs.
///
/// What sysfs does not show (no hugetlb in the kernel, no sysfs in a container) is empty or absent, not an error.
pub fn pools() -> Pools {
    read(Path::new(SYSFS))
}

/// Sets the number of pages of `page` bytes in the host's pool, or in that of one NUMA node, and reads back what it is.
///
/// The kernel may give fewer than asked, when memory is fragmented or used; [`Reserved::is_whole`] says so.
///
/// # Errors
/// A size or a node that the host does not have, or no permission (it takes root).
pub fn reserve(page: usize, count: usize, node: Option<u32>) -> Result<Reserved, PoolError> {
    reserve_at(Path::new(SYSFS), page, count, node)
}

/// The pages of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pools {
    /// The hugetlb pools, smallest pages first.
    pub sizes: Vec<Pool>,
    /// NUMA nodes that are online.
    pub nodes: Vec<u32>,
    /// Transparent pages for anonymous memory.
    pub anonymous: ThpMode,
    /// Transparent pages for memfd objects (tmpfs mounts have an option of their own).
    pub shared: ThpMode,
}

impl Pools {
    /// Pages of a hugetlb kind that are free and promised to nobody.
    pub fn available(&self, kind: PageKind) -> usize {
        self.pool(kind).map_or(0, |pool| pool.free.saturating_sub(pool.reserved))
    }

    /// The pool of a hugetlb kind.
    pub fn pool(&self, kind: PageKind) -> Option<&Pool> {
        self.sizes.iter().find(|pool| kind.is_hugetlb() && pool.page == kind.size())
    }
}

/// One hugetlb pool; counts are pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Size of a page in bytes.
    pub page: usize,
    /// All pages of the pool, surplus ones too.
    pub total: usize,
    /// Pages that nobody uses; some may be promised (`reserved`).
    pub free: usize,
    /// Pages promised to mappings that have not touched them yet.
    pub reserved: usize,
    /// Pages above the configured number, given back when free.
    pub surplus: usize,
    /// The same by NUMA node.
    pub nodes: Vec<NodePool>,
}

/// A NUMA node's part of a hugetlb pool; counts are pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodePool {
    /// Number of the node.
    pub node: u32,
    /// All pages on the node.
    pub total: usize,
    /// Pages on the node that nobody uses.
    pub free: usize,
    /// Pages above the configured number.
    pub surplus: usize,
}

/// When the kernel backs memory by transparent huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThpMode {
    /// Wherever it can.
    Always,
    /// Where it lies wholly inside the object's size, or is advised.
    WithinSize,
    /// Where madvise asks for it.
    Advise,
    /// Nowhere.
    Never,
    /// Nowhere, whatever a mount says.
    Deny,
    /// Everywhere, for tests of the kernel.
    Force,
    /// The kernel does not say.
    #[default]
    Absent,
}

impl ThpMode {
    /// Whether memory that asks by madvise can get large pages.
    pub const fn can(self) -> bool {
        matches!(self, ThpMode::Always | ThpMode::WithinSize | ThpMode::Advise | ThpMode::Force)
    }
}

impl fmt::Display for ThpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ThpMode::Always => "always",
            ThpMode::WithinSize => "within_size",
            ThpMode::Advise => "madvise",
            ThpMode::Never => "never",
            ThpMode::Deny => "deny",
            ThpMode::Force => "force",
            ThpMode::Absent => "absent",
        })
    }
}

/// What a reservation changed; counts are pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Pages that the pool had.
    pub before: usize,
    /// Pages that it should have.
    pub asked: usize,
    /// Pages that it has now; more than asked while pages that should go are in use.
    pub got: usize,
}

impl Reserved {
    /// Whether the pool has what was asked.
    pub const fn is_whole(&self) -> bool {
        self.got >= self.asked
    }
}

fn read(sysfs: &Path) -> Pools {
    let nodes = numbered(&sysfs.join("devices/system/node"), "node", "");
    let nodes: Vec<u32> = nodes.into_iter().filter_map(|node| u32::try_from(node).ok()).collect();
    let kib = numbered(&sysfs.join("kernel/mm/hugepages"), "hugepages-", "kB");
    Pools {
        sizes: kib.into_iter().map(|kib| read_pool(sysfs, kib, &nodes)).collect(),
        anonymous: thp_mode(sysfs, "enabled"),
        shared: thp_mode(sysfs, "shmem_enabled"),
        nodes,
    }
}

fn read_pool(sysfs: &Path, kib: usize, nodes: &[u32]) -> Pool {
    let all = pool_folder(sysfs, kib, None);
    let node_pool = |&node: &u32| {
        let folder = pool_folder(sysfs, kib, Some(node));
        let count = |file| count(&folder.join(file));
        NodePool {
            node,
            total: count("nr_hugepages"),
            free: count("free_hugepages"),
            surplus: count("surplus_hugepages"),
        }
    };
    Pool {
        page: kib << 10,
        total: count(&all.join("nr_hugepages")),
        free: count(&all.join("free_hugepages")),
        reserved: count(&all.join("resv_hugepages")),
        surplus: count(&all.join("surplus_hugepages")),
        nodes: nodes.iter().map(node_pool).collect(),
    }
}

fn reserve_at(sysfs: &Path, page: usize, count_asked: usize, node: Option<u32>) -> Result<Reserved, PoolError> {
    let host = read(sysfs);
    if !host.sizes.iter().any(|pool| pool.page == page) {
        return Err(PoolError::NoPool { page, have: host.sizes.iter().map(|pool| pool.page).collect() });
    }
    if let Some(node) = node.filter(|node| !host.nodes.contains(node)) {
        return Err(PoolError::NoSuchNode { node, online: host.nodes });
    }
    let path = pool_folder(sysfs, page >> 10, node).join("nr_hugepages");
    let before = count(&path);
    match fs::write(&path, format!("{count_asked}\n")).map_err(|error| Errno::of(&error)) {
        Ok(()) => Ok(Reserved { before, asked: count_asked, got: count(&path) }),
        Err(errno) if errno.is_permission() => Err(PoolError::NoPermission { path }),
        Err(errno) => Err(PoolError::System { path, errno }),
    }
}

fn pool_folder(sysfs: &Path, kib: usize, node: Option<u32>) -> PathBuf {
    let folder = match node {
        Some(node) => sysfs.join(format!("devices/system/node/node{node}/hugepages")),
        None => sysfs.join("kernel/mm/hugepages"),
    };
    folder.join(format!("hugepages-{kib}kB"))
}

/// The numbers N of the entries `<before>N<after>` of a folder, ascending.
fn numbered(folder: &Path, before: &str, after: &str) -> Vec<usize> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let number = |name: &str| name.strip_prefix(before)?.strip_suffix(after)?.parse().ok();
    let mut found: Vec<usize> = entries.filter_map(|entry| number(entry.file_name().to_str()?)).collect();
    found.sort_unstable();
    found
}

fn count(path: &Path) -> usize {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The mode for 2 MiB pages: their own (Linux 6.8 and later), unless that inherits the general one.
fn thp_mode(sysfs: &Path, file: &str) -> ThpMode {
    let thp = sysfs.join("kernel/mm/transparent_hugepage");
    let own = chosen(&thp.join("hugepages-2048kB").join(file));
    own.or_else(|| chosen(&thp.join(file))).unwrap_or_default()
}

/// The word in brackets, if it is a mode.
fn chosen(path: &Path) -> Option<ThpMode> {
    let text = fs::read_to_string(path).ok()?;
    match text.split_once('[')?.1.split_once(']')?.0 {
        "always" => Some(ThpMode::Always),
        "within_size" => Some(ThpMode::WithinSize),
        "madvise" | "advise" => Some(ThpMode::Advise),
        "never" => Some(ThpMode::Never),
        "deny" => Some(ThpMode::Deny),
        "force" => Some(ThpMode::Force),
        _ => None,
    }
}

/// Where the kernel shows the host.
const SYSFS: &str = "/sys";

#[cfg(test)]
mod tests {
    use super::*;

    /// A made-up host in a folder of its own, removed when dropped.
    struct Host(PathBuf);

    impl Host {
        fn new(name: &str) -> Host {
            let root = std::env::temp_dir().join(format!("millrace-sysfs-{name}-{}", std::process::id()));
            let host = Host(root);
            for node in ["node0", "node1"] {
                host.pool(&format!("devices/system/node/{node}/hugepages/hugepages-2048kB"), 3, 1, 0);
            }
            host.pool("kernel/mm/hugepages/hugepages-1048576kB", 0, 0, 0);
            host.pool("kernel/mm/hugepages/hugepages-2048kB", 6, 2, 1);
            host.file("kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
            host.file("kernel/mm/transparent_hugepage/shmem_enabled", "always within_size advise [never] deny force\n");
            host
        }

        fn pool(&self, folder: &str, total: usize, free: usize, reserved: usize) {
            for (file, count) in [
                ("nr_hugepages", total),
                ("free_hugepages", free),
                ("resv_hugepages", reserved),
                ("surplus_hugepages", 0),
            ] {
                self.file(&format!("{folder}/{file}"), &format!("{count}\n"));
            }
        }

        fn file(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    impl Drop for Host {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_host_is_read_whole() {
        let host = Host::new("read");
        let part = |node| NodePool { node, total: 3, free: 1, surplus: 0 };
        let none = |node| NodePool { node, total: 0, free: 0, surplus: 0 };
        let small = Pool { page: 2 << 20, total: 6, free: 2, reserved: 1, surplus: 0, nodes: vec![part(0), part(1)] };
        let large = Pool { page: 1 << 30, total: 0, free: 0, reserved: 0, surplus: 0, nodes: vec![none(0), none(1)] };
        let (anonymous, shared) = (ThpMode::Advise, ThpMode::Never);
        let found = read(&host.0);
        assert_eq!(found, Pools { sizes: vec![small, large], nodes: vec![0, 1], anonymous, shared });
        assert_eq!(found.available(PageKind::Huge2M), 1, "a promised page is not free");
        assert_eq!(found.available(PageKind::Plain), 0);
        assert_eq!(read(Path::new("/nonexistent")), Pools::default());
    }

    #[test]
    fn the_mode_for_two_mebibytes_overrides_the_general_one() {
        let host = Host::new("mode");
        let own = "kernel/mm/transparent_hugepage/hugepages-2048kB/shmem_enabled";
        host.file(own, "always [inherit] within_size advise never\n");
        assert_eq!(read(&host.0).shared, ThpMode::Never);
        host.file(own, "always inherit within_size [advise] never\n");
        assert_eq!(read(&host.0).shared, ThpMode::Advise);
    }

    #[test]
    fn a_reservation_goes_where_it_was_asked_for() {
        let host = Host::new("reserve");
        assert_eq!(reserve_at(&host.0, 2 << 20, 8, None), Ok(Reserved { before: 6, asked: 8, got: 8 }));
        assert_eq!(reserve_at(&host.0, 2 << 20, 5, Some(1)), Ok(Reserved { before: 3, asked: 5, got: 5 }));
        let totals: Vec<usize> = read(&host.0).sizes[0].nodes.iter().map(|part| part.total).collect();
        assert_eq!(totals, [3, 5]);
    }

    #[test]
    fn what_the_host_lacks_is_named() {
        let host = Host::new("lacks");
        let have = vec![2 << 20, 1 << 30];
        assert_eq!(reserve_at(&host.0, 4096, 1, None), Err(PoolError::NoPool { page: 4096, have }));
        let online = vec![0, 1];
        assert_eq!(reserve_at(&host.0, 2 << 20, 1, Some(2)), Err(PoolError::NoSuchNode { node: 2, online }));
    }
}
