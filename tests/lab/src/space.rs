//! Network namespaces.
use crate::run;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{fs::File, os::fd::AsFd as _, process::Command, thread::JoinHandle};

/// A named network namespace with its loopback up; it goes with its lab.
#[derive(Clone, Debug)]
pub struct Space {
    name: String,
}

impl Space {
    pub(crate) fn new(name: String) -> Self {
        run(Command::new("ip").args(["netns", "add", &name]));
        let space = Space { name };
        space.ip("link set lo up");
        space
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path.
    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Removes it.
    pub fn remove(self) {
        run(Command::new("ip").args(["netns", "del", &self.name]));
    }

    /// Runs `ip` on it with arguments that spaces part, and gives what it prints.
    pub fn ip(&self, arguments: &str) -> String {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments.split(' ')))
    }

    /// Runs a command in it, its words parted by spaces, and gives what it prints.
    pub fn run(&self, command: &str) -> String {
        let mut words = command.split(' ');
        run(self.command(words.next().unwrap_or_default()).args(words))
    }

    /// A command that runs in it, with a `/sys` that shows it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// What sysfs says of an interface.
    pub fn sysfs(&self, interface: &str, what: &str) -> String {
        self.run(&format!("cat /sys/class/net/{interface}/{what}")).trim().to_owned()
    }

    /// Does something in it, on a thread of its own: sockets stay where they were made.
    ///
    /// # Panics
    /// When the thread cannot enter it.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let path = self.path();
        std::thread::spawn(move || {
            let space = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        })
    }

    /// Does something in it and waits.
    ///
    /// # Panics
    /// When that does.
    pub fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
