//! Guest memory that nobody can change any more, and that any number of guests have as theirs until they write.
//!
//! The pages stand in sealed memory files, each part of which is mapped privately at its place. What no part holds is
//! zero and stays anonymous memory: a page that a guest touches there costs one page, and not one in the file besides.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::extent::{self, Extent};
use super::layout::PAGE_SIZE;
use super::pieces::FilePiece;
use super::sealed;
use super::{GuestMemory, HostMapping};

/// Most mappings that an image of one file is cut into. Each takes part of what a process has (65,530 unless the host
/// says otherwise), costs every clone 8,000 instructions or, in a shell, 30,000, and is looked at whenever a VM is made in
/// the process. What a coarser cut costs is a page of the file for each that is touched in a gap, once for all clones.
const MAX_RUNS: usize = 8;
/// A gap is left if it is as wide as this, in bytes: to look through its page tables, when the clone is frozen or saved
/// again, would cost more than the mapping behind it.
const NARROWEST_GAP: u64 = 8 << 20;
/// The same for what was written since: between its runs the image before is seen, and goes on being shared.
const MAX_CHANGED_RUNS: usize = 8;
/// Most parts of an image in several files.
const MAX_PARTS: usize = 20;

/// Frozen content of a guest's memory.
#[derive(Debug, Default)]
pub struct MemoryImage {
    /// In order, and apart.
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
struct Part {
    place: Extent,
    file: Arc<File>,
    file_offset: u64,
}

/// Part of an image as it is told to another process: where it lies in guest memory, the number of its file among those
/// of the image, and where in that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    /// Where in guest memory.
    pub place: Extent,
    /// Which file.
    pub file: u8,
    /// Where in the file.
    pub file_offset: u64,
}

/// An image that is being filled.
#[derive(Debug)]
pub struct ImageWriter {
    runs: Vec<Extent>,
    file: File,
}

impl ImageWriter {
    /// Room for `extents`, in order; what is not written stays zero.
    pub fn new(extents: &[Extent]) -> io::Result<Self> {
        Self::with_file(Self::cut(extents), Self::new_file)
    }

    /// The runs that an image with content in `extents` is cut into.
    fn cut(extents: &[Extent]) -> Vec<Extent> {
        extent::coarsen(&extent::bridge(extents, NARROWEST_GAP), MAX_RUNS)
    }

    /// Room for `runs` in a file that `make` gives, of that many bytes at least.
    fn with_file(runs: Vec<Extent>, make: impl FnOnce(u64) -> io::Result<File>) -> io::Result<Self> {
        let file = make(extent::total(&runs))?;
        Ok(Self { runs, file })
    }

    /// A file of `len` bytes for an image.
    pub fn new_file(len: u64) -> io::Result<File> {
        sealed::create(c"sandbox-memory", len)
    }

    /// The file, and where in it the page at `offset` of guest memory stands; `None` if there is no room for it.
    fn place(&self, offset: u64) -> Option<(&File, u64)> {
        let mut before = 0;
        for run in &self.runs {
            if (run.offset..run.end()).contains(&offset) {
                return Some((&self.file, before + (offset - run.offset)));
            }
            before += run.len;
        }
        None
    }

    /// Writes pages to the place of the first; all must lie in one extent that there was made room for.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (file, position) = self.place(offset).ok_or(io::ErrorKind::InvalidInput)?;
        file.write_all_at(bytes, position)
    }

    /// The image, which does not change any more.
    pub fn finish(self) -> io::Result<MemoryImage> {
        sealed::seal(&self.file)?;
        Ok(MemoryImage {
            parts: parts(&self.runs, &Arc::new(self.file)),
        })
    }
}

/// Parts that stand one behind the other in `file`.
fn parts(runs: &[Extent], file: &Arc<File>) -> Vec<Part> {
    let mut file_offset = 0;
    let part = |run: &Extent| {
        let part = Part {
            place: *run,
            file: Arc::clone(file),
            file_offset,
        };
        file_offset += run.len;
        part
    };
    runs.iter().map(part).collect()
}

impl MemoryImage {
    /// Freezes a guest's memory, which nobody may write meanwhile, and gives it back to the guest as the image's
    /// private view. What was frozen before and not written since is shared with the earlier image.
    ///
    /// # Errors
    /// The host has no memory for the copy, and the guest is as it was; or, behind the copy, no room for a mapping, and
    /// the guest's memory is lost.
    pub fn freeze(memory: &GuestMemory) -> Result<Arc<Self>, FreezeError> {
        Self::freeze_in(memory, ImageWriter::new_file)
    }

    /// The same by a process that cannot make files: what is new goes to one that `make` gives, at least as long as it is
    /// asked for.
    ///
    /// # Errors
    /// As [`MemoryImage::freeze`].
    pub fn freeze_in(
        memory: &GuestMemory,
        make: impl FnOnce(u64) -> io::Result<File>,
    ) -> Result<Arc<Self>, FreezeError> {
        let private = memory.private_pages().map_err(FreezeError::Copy)?;
        let image = match memory.image() {
            Some(base) if private.is_empty() => return Ok(base),
            Some(base) => base.with_changes(memory, &private, make),
            None => Self::whole(memory, &private, make),
        };
        let image = Arc::new(image.map_err(FreezeError::Copy)?);
        memory.rebase(&image).map_err(FreezeError::Map)?;
        Ok(image)
    }

    /// Its files, each once, in the order of the parts; and the parts, for another process that is handed the files.
    pub fn records(&self) -> (Vec<Arc<File>>, Vec<PartRecord>) {
        let mut files: Vec<Arc<File>> = Vec::new();
        let record = |part: &Part| {
            let known = files.iter().position(|file| Arc::ptr_eq(file, &part.file));
            let number = known.unwrap_or_else(|| {
                files.push(Arc::clone(&part.file));
                files.len() - 1
            });
            PartRecord {
                place: part.place,
                // There are no more files than parts, of which there are few.
                file: number as u8,
                file_offset: part.file_offset,
            }
        };
        let records = self.parts.iter().map(record).collect();
        (files, records)
    }

    /// The image that another process described by `records` of `files`, for a guest with `memory` bytes. `None` if it
    /// cannot be one: parts out of order, over each other, or beyond memory or file.
    pub fn from_records(memory: u64, files: &[Arc<File>], records: &[PartRecord]) -> Option<Self> {
        if records.len() > MAX_PARTS {
            return None;
        }
        let mut parts = Vec::with_capacity(records.len());
        for record in records {
            let file = files.get(usize::from(record.file))?;
            let length = file.metadata().ok()?.len();
            let fits = record.file_offset.is_multiple_of(PAGE_SIZE)
                && record.file_offset.checked_add(record.place.len)? <= length;
            if !fits {
                return None;
            }
            parts.push(Part {
                place: record.place,
                file: Arc::clone(file),
                file_offset: record.file_offset,
            });
        }
        let places: Vec<Extent> = parts.iter().map(|part| part.place).collect();
        extent::are_sound(&places, memory).then_some(Self { parts })
    }

    /// Host memory that it takes, in bytes.
    pub fn size(&self) -> io::Result<u64> {
        Ok(extent::total(&self.content()?))
    }

    /// Where it has content. What is left out is zero, and holes of its files: who read them would fill them.
    pub fn content(&self) -> io::Result<Vec<Extent>> {
        let mut content = Vec::new();
        for part in &self.parts {
            let begin = part.file_offset;
            for data in sealed::data(&part.file, begin, begin + part.place.len)? {
                content.push(Extent {
                    offset: part.place.offset + (data.offset - begin),
                    len: data.len,
                });
            }
        }
        Ok(content)
    }

    /// Bytes from which its pages are mapped, holes included.
    fn span(&self) -> u64 {
        self.parts.iter().map(|part| part.place.len).sum()
    }

    /// Its parts, for a mapping that begins with them.
    pub(super) fn pieces(&self) -> Vec<FilePiece<'_>> {
        let parts = self.parts.iter();
        parts
            .map(|part| FilePiece {
                place: part.place,
                file: part.file.as_fd(),
                file_offset: part.file_offset,
            })
            .collect()
    }

    /// Lays it over a mapping that is fresh.
    pub(super) fn lay_over(&self, mapping: &HostMapping) -> io::Result<()> {
        for piece in self.pieces() {
            let Extent { offset, len } = piece.place;
            mapping.overlay_file(offset, len, piece.file, piece.file_offset)?;
        }
        Ok(())
    }

    fn whole(memory: &GuestMemory, private: &[Extent], make: impl FnOnce(u64) -> io::Result<File>) -> io::Result<Self> {
        let mapping = memory.mapping();
        let content = mapping.without_zero_pages(&extent::union(&memory.untouched_content()?, private));
        let writer = ImageWriter::with_file(ImageWriter::cut(&content), make)?;
        copy(mapping, &content, &writer)?;
        writer.finish()
    }

    /// This image with other pages in some places: as further parts, as long as these are few and small.
    fn with_changes(
        &self,
        memory: &GuestMemory,
        changed: &[Extent],
        make: impl FnOnce(u64) -> io::Result<File>,
    ) -> io::Result<Self> {
        let runs = extent::coarsen(changed, MAX_CHANGED_RUNS);
        let few = self.parts.len() + 2 * runs.len() <= MAX_PARTS;
        if !few || 2 * extent::total(&runs) > self.span() {
            return Self::whole(memory, changed, make);
        }
        let mapping = memory.mapping();
        let writer = ImageWriter::with_file(runs.clone(), make)?;
        copy(mapping, &mapping.without_zero_pages(&runs), &writer)?;
        let changes = writer.finish()?;
        let mut parts: Vec<Part> = self.parts.iter().flat_map(|part| part.without(&runs)).collect();
        parts.extend(changes.parts);
        parts.sort_unstable_by_key(|part| part.place.offset);
        Ok(Self { parts })
    }
}

impl Part {
    /// What is left of it beside `runs`.
    fn without(&self, runs: &[Extent]) -> Vec<Part> {
        let mut left = Vec::new();
        let mut from = self.place.offset;
        let mut keep = |from: u64, to: u64| {
            if from < to {
                left.push(Part {
                    place: Extent {
                        offset: from,
                        len: to - from,
                    },
                    file: Arc::clone(&self.file),
                    file_offset: self.file_offset + (from - self.place.offset),
                });
            }
        };
        for run in runs {
            keep(from, run.offset.min(self.place.end()));
            from = from.max(run.end());
        }
        keep(from, self.place.end());
        left
    }
}

/// Copies pages of a guest to their places.
fn copy(mapping: &HostMapping, extents: &[Extent], writer: &ImageWriter) -> io::Result<()> {
    for extent in extents {
        let (file, position) = writer.place(extent.offset).ok_or(io::ErrorKind::InvalidInput)?;
        mapping.write_to_file(*extent, file, position)?;
    }
    Ok(())
}

/// Why guest memory could not be frozen.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// It could not be copied; the guest is as it was.
    #[error("the guest's memory cannot be copied")]
    Copy(#[source] io::Error),
    /// The copy could not be mapped in its place; the guest cannot go on.
    #[error("the guest's frozen memory cannot be mapped")]
    Map(#[source] io::Error),
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::super::HugePages;
    use super::*;

    const SIZE: u64 = 4 << 20;

    fn write(memory: &GuestMemory, page: u64, value: u8) {
        memory.write_obj(value, GuestAddress(page * PAGE_SIZE)).unwrap();
    }

    fn read(memory: &GuestMemory, page: u64) -> u8 {
        memory.read_obj(GuestAddress(page * PAGE_SIZE)).unwrap()
    }

    fn clone_of(image: &Arc<MemoryImage>) -> GuestMemory {
        let memory = GuestMemory::new(SIZE, HugePages::Never, false).unwrap();
        memory.lay_over(image).unwrap();
        memory
    }

    #[test]
    fn parent_and_clones_share_what_they_do_not_write() {
        let parent = GuestMemory::new(SIZE, HugePages::Never, false).unwrap();
        write(&parent, 3, 1);
        write(&parent, 900, 2);
        let image = MemoryImage::freeze(&parent).unwrap();
        assert_eq!(image.size().unwrap(), 2 * PAGE_SIZE);
        let clones = [clone_of(&image), clone_of(&image)];
        write(&clones[0], 3, 11);
        write(&clones[0], 500, 12);
        write(&parent, 900, 22);
        assert_eq!((read(&parent, 3), read(&parent, 900), read(&parent, 500)), (1, 22, 0));
        assert_eq!((read(&clones[0], 3), read(&clones[0], 900)), (11, 2));
        assert_eq!((read(&clones[1], 3), read(&clones[1], 500)), (1, 0));
        assert_eq!(extent::total(&clones[0].private_pages().unwrap()), 2 * PAGE_SIZE);
    }

    #[test]
    fn clones_of_clones_carry_what_was_written_on_the_way() {
        let mut memory = GuestMemory::new(SIZE, HugePages::Never, false).unwrap();
        for page in 0..200 {
            write(&memory, page, 1);
        }
        for generation in 0..30u8 {
            let image = MemoryImage::freeze(&memory).unwrap();
            assert!(image.parts.len() <= MAX_PARTS, "{} parts", image.parts.len());
            let again = MemoryImage::freeze(&memory).unwrap();
            assert!(Arc::ptr_eq(&image, &again), "nothing was written");
            memory = clone_of(&image);
            // One in the midst of the image, one in a gap; every third time a page becomes zero again.
            write(
                &memory,
                u64::from(generation) * 6,
                if generation % 3 == 0 { 0 } else { generation },
            );
            write(&memory, 300 + u64::from(generation) * 7, generation + 1);
        }
        for generation in 0..30u8 {
            let expected = if generation % 3 == 0 { 0 } else { generation };
            assert_eq!(read(&memory, u64::from(generation) * 6), expected, "{generation}");
            assert_eq!(read(&memory, 300 + u64::from(generation) * 7), generation + 1);
        }
        assert_eq!(read(&memory, 199), 1);
    }

    #[test]
    fn an_image_can_be_told_to_another_process_and_a_false_one_cannot() {
        let parent = GuestMemory::new(SIZE, HugePages::Never, false).unwrap();
        for page in 0..64 {
            write(&parent, page, 1);
        }
        MemoryImage::freeze(&parent).unwrap();
        write(&parent, 3, 2);
        let given = ImageWriter::new_file(SIZE).unwrap();
        let image = MemoryImage::freeze_in(&parent, |_| Ok(given)).unwrap();
        let (files, records) = image.records();
        assert_eq!((files.len(), records.len()), (2, 3));
        let told = Arc::new(MemoryImage::from_records(SIZE, &files, &records).unwrap());
        let clone = clone_of(&told);
        assert_eq!((read(&clone, 3), read(&clone, 4), read(&clone, 64)), (2, 1, 0));
        let refused = |change: fn(&mut Vec<PartRecord>)| {
            let mut records = records.clone();
            change(&mut records);
            assert!(
                MemoryImage::from_records(SIZE, &files, &records).is_none(),
                "{records:?}"
            );
        };
        refused(|records| records[0].file = 2);
        refused(|records| records[0].file_offset += PAGE_SIZE * 1024);
        refused(|records| records[0].file_offset += 1);
        refused(|records| records[2].place.offset = SIZE);
        refused(|records| records.swap(0, 1));
        refused(|records| records[0].place.len += PAGE_SIZE);
        refused(|records| *records = vec![records[0]; MAX_PARTS + 1]);
    }

    #[test]
    fn pages_of_a_mapped_file_belong_to_the_image_though_nobody_touched_them() {
        let file = sealed::create(c"test", 2 * PAGE_SIZE).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[9; 2 * PAGE_SIZE as usize], 0).unwrap();
        sealed::seal(&file).unwrap();
        let parent = GuestMemory::new(SIZE, HugePages::Never, false).unwrap();
        parent
            .mapping()
            .overlay_file(10 * PAGE_SIZE, 2 * PAGE_SIZE, file.as_fd(), 0)
            .unwrap();
        let image = MemoryImage::freeze(&parent).unwrap();
        assert_eq!(image.size().unwrap(), 2 * PAGE_SIZE);
        assert_eq!(read(&clone_of(&image), 11), 9);
    }

    #[test]
    fn holes_of_an_image_stay_holes_when_a_clone_is_frozen_and_saved() {
        let parent = GuestMemory::new(SIZE, HugePages::Never, false).unwrap();
        write(&parent, 3, 1);
        write(&parent, 900, 2);
        let image = MemoryImage::freeze(&parent).unwrap();
        assert_eq!(image.parts.len(), 1, "the gap is narrow");
        let clone = clone_of(&image);
        write(&clone, 500, 3);
        let before = image.size().unwrap();
        let pages: Vec<u64> = clone
            .content()
            .unwrap()
            .iter()
            .map(|extent| extent.offset / PAGE_SIZE)
            .collect();
        assert_eq!(pages, [3, 500, 900]);
        let second = MemoryImage::whole(&clone, &clone.private_pages().unwrap(), ImageWriter::new_file).unwrap();
        assert_eq!((second.size().unwrap(), image.size().unwrap()), (3 * PAGE_SIZE, before));
    }

    #[test]
    fn untouched_memory_of_a_clone_takes_no_page_of_the_file() {
        let parent = GuestMemory::new(SIZE, HugePages::Never, false).unwrap();
        write(&parent, 0, 1);
        let image = MemoryImage::freeze(&parent).unwrap();
        let clone = clone_of(&image);
        write(&clone, 700, 5);
        assert_eq!(image.parts[0].file.metadata().unwrap().len(), PAGE_SIZE);
    }
}
