//! Demand paging of a restored guest: its pages are read from the snapshot when they are asked for.
//!
//! The first restore of a folder records which pages are asked for, until none is for a while, and leaves the list
//! beside the snapshot; later restores read these ahead, in the order in which they were wanted, whenever nobody waits.
//! The list is a hint: what it says is checked to be pages of the snapshot, and a missing or damaged one is made anew.
//!
//! When a page cannot be read any more, because the file was cut or its disk is gone, the sandbox fails, and nobody
//! hangs.

use std::fs;
use std::io;
use std::path::PathBuf;

use sandbox_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use super::files::read_bounded;
use super::memory_file::MemoryFile;
use super::section::{Identity, SectionKind, SectionState, StateFile, StateWriter};
use crate::memory::GuestMemory;
use crate::memory::extent::{self, Extent};
use crate::memory::fault_server::{self, FaultServer, FaultService, OnFailure, Woken};
use crate::memory::layout::PAGE_SIZE;
use crate::memory::userfault::Userfault;

/// Name of the list of pages to read ahead.
pub const WORKING_SET_FILE: &str = "working-set";
/// The list is complete when no page was asked for in this time, in milliseconds.
const QUIET: i32 = 500;
/// Most runs in a list: a hostile one must not make us read without end.
const MAX_RUNS: usize = 1 << 16;
/// The largest list that is read, in bytes.
pub const MAX_BYTES: u64 = 2 << 20;
/// How much is read ahead before somebody who waits is looked for, in bytes.
const AHEAD: u64 = 64 << 10;

/// The pages that a guest asked for, in that order.
#[derive(Debug, Serialize, Deserialize)]
struct WorkingSet(Vec<Extent>);

impl SectionState for WorkingSet {
    const KIND: SectionKind = SectionKind::WorkingSet;
    const VERSION: u16 = 1;
}

/// Where the list of pages to read ahead is kept.
pub trait ListStore: Send {
    /// The list that an earlier restore left.
    fn read(&self) -> Option<Vec<u8>>;

    /// Leaves a list to later restores.
    ///
    /// # Errors
    /// A place that does not take it.
    fn leave(&self, bytes: &[u8]) -> io::Result<()>;
}

/// The list in a snapshot's folder.
pub struct InFolder(pub PathBuf);

impl ListStore for InFolder {
    fn read(&self) -> Option<Vec<u8>> {
        read_bounded(&self.0.join(WORKING_SET_FILE), WORKING_SET_FILE, MAX_BYTES).ok()
    }

    fn leave(&self, bytes: &[u8]) -> io::Result<()> {
        let list = self.0.join(WORKING_SET_FILE);
        let partial = list.with_extension(format!("{}.partial", std::process::id()));
        let left = fs::write(&partial, bytes).and_then(|()| fs::rename(&partial, &list));
        if left.is_err() {
            let _ = fs::remove_file(&partial);
        }
        left
    }
}

/// Where pages come from.
pub struct Paging {
    /// The snapshot.
    pub identity: Identity,
    /// Its memory files, the oldest layer first.
    pub files: Vec<MemoryFile>,
    /// Where the list of pages to read ahead is kept.
    pub list: Box<dyn ListStore>,
}

/// The thread that serves a guest's missing pages, until this is dropped.
pub struct Pager(FaultServer);

impl Pager {
    /// Serves the pages of `memory`, which is fresh, by `userfault`, on a thread that does `first` before.
    ///
    /// # Errors
    /// A host without threads or descriptors left.
    pub fn start(
        memory: &GuestMemory,
        userfault: Userfault,
        paging: Paging,
        first: impl FnOnce() + Send + 'static,
    ) -> Result<Self> {
        let Paging { identity, files, list } = paging;
        let stored = files
            .iter()
            .fold(Vec::new(), |sum, file| extent::union(&sum, file.extents()));
        memory.mapping().note_content(&stored);
        let ahead = list
            .read()
            .and_then(|bytes| parse_list(&bytes, identity, memory.size()));
        let service = Service {
            memory: memory.clone(),
            userfault,
            files,
            recorded: ahead.is_none().then(Vec::new),
            ahead: ahead.unwrap_or_default().into_iter().collect(),
            list,
            identity,
        };
        FaultServer::start(service, first).map(Self).map_err(no_thread)
    }

    /// Has `report` called when pages cannot be served any more, at once if that is so already.
    pub fn on_failure(&self, report: OnFailure) {
        self.0.on_failure(report);
    }
}

fn no_thread(error: io::Error) -> Error {
    let context = "the host has no thread or descriptor left to serve pages with";
    Error::new(ErrorKind::HostExhausted, context).with_source(error)
}

/// What the thread has.
struct Service {
    // The mapping must outlive the registration.
    userfault: Userfault,
    memory: GuestMemory,
    files: Vec<MemoryFile>,
    /// What was asked for up to now, as long as that is recorded.
    recorded: Option<Vec<Extent>>,
    /// What is to be read ahead.
    ahead: std::collections::VecDeque<Extent>,
    list: Box<dyn ListStore>,
    identity: Identity,
}

impl FaultService for Service {
    fn serve(&mut self, stop: &EventFd) -> io::Result<()> {
        loop {
            match self.wait(stop)? {
                Woken::Stop => return Ok(()),
                Woken::Fault => {
                    while let Some(offset) = self.userfault.next()? {
                        self.serve_fault(offset)?;
                    }
                }
                Woken::Nothing if self.ahead.is_empty() => self.leave_list(),
                Woken::Nothing => self.read_ahead()?,
            }
        }
    }

    fn userfault(&self) -> &Userfault {
        &self.userfault
    }

    fn failed(&self) -> &'static str {
        "the guest's memory cannot be read from its snapshot"
    }
}

impl Service {
    /// Waits for as long as there is nothing else to do.
    fn wait(&self, stop: &EventFd) -> io::Result<Woken> {
        let patience = match (self.ahead.is_empty(), &self.recorded) {
            (false, _) => 0,
            (true, Some(recorded)) if !recorded.is_empty() => QUIET,
            (true, _) => -1,
        };
        fault_server::wait(stop, &self.userfault, patience)
    }

    fn serve_fault(&mut self, offset: u64) -> io::Result<()> {
        if offset >= self.memory.size() {
            return Ok(());
        }
        match self.read_page(offset)? {
            Some(page) => self.userfault.fill(offset, &page)?,
            None => self.userfault.zero(offset)?,
        }
        if let Some(recorded) = self.recorded.as_mut().filter(|recorded| recorded.len() < MAX_RUNS) {
            extent::push_page(recorded, offset);
        }
        Ok(())
    }

    /// The page's content in the last layer that has it; `None` if none has.
    fn read_page(&self, offset: u64) -> io::Result<Option<[u8; PAGE_SIZE as usize]>> {
        let mut newest_first = self.files.iter().rev();
        newest_first.find_map(|file| file.page(offset).transpose()).transpose()
    }

    /// A little of what is to be read ahead.
    fn read_ahead(&mut self) -> io::Result<()> {
        let Some(run) = self.ahead.pop_front() else {
            return Ok(());
        };
        let len = run.len.min(AHEAD);
        for offset in (run.offset..run.offset + len).step_by(PAGE_SIZE as usize) {
            if let Some(page) = self.read_page(offset)? {
                self.userfault.fill(offset, &page)?;
            }
        }
        if len < run.len {
            self.ahead.push_front(Extent {
                offset: run.offset + len,
                len: run.len - len,
            });
        }
        Ok(())
    }

    /// Leaves what was recorded to later restores. A folder that cannot be written, or is gone, goes without.
    fn leave_list(&mut self) {
        let Some(recorded) = self.recorded.take() else {
            return;
        };
        let mut writer = StateWriter::new(self.identity);
        if writer.add(&WorkingSet(recorded)).is_err() {
            return;
        }
        if let Err(error) = self.list.leave(&writer.finish()) {
            tracing::debug!(%error, "the working set is not kept");
        }
    }
}

/// The error for a host that does not let this process serve page faults.
pub fn refused(error: io::Error) -> Error {
    let context = "pages cannot be served on demand: userfaultfd is not to be had; give the process CAP_SYS_PTRACE or \
                   /dev/userfaultfd, or restore by cow or eager";
    Error::unsupported("memory", context).with_source(error)
}

/// The list that an earlier restore left, if it is one of this snapshot, whose guest has `size` bytes of memory.
pub fn parse_list(bytes: &[u8], identity: Identity, size: u64) -> Option<Vec<Extent>> {
    let file = StateFile::parse(bytes).ok()?;
    let WorkingSet(runs) = file.get().ok()?;
    let sound = runs.len() <= MAX_RUNS && runs.iter().all(|run| extent::are_sound(&[*run], size));
    (sound && file.identity() == identity).then_some(runs)
}
