//! Handles: 64-bit names of objects.
//!
//! A handle is made of the object's kind, the number of its slot and the slot's generation, which grows each time that
//! the slot is given up. A slot whose generations are used up is never taken again, so that no handle ever means two
//! objects.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::entry::{Failure, Outcome};

const INDEX_BITS: u32 = 24;
const GENERATION_BITS: u32 = 32;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;

/// What kind of object a handle names, in its highest byte; never 0, so that no handle is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Error = 1,
    Text = 2,
    Cancel = 3,
    Runtime = 4,
    Spec = 5,
    Sandbox = 6,
    Exec = 7,
    Events = 8,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Error => "error",
            Kind::Text => "text",
            Kind::Cancel => "cancel token",
            Kind::Runtime => "runtime",
            Kind::Spec => "spec",
            Kind::Sandbox => "sandbox",
            Kind::Exec => "exec session",
            Kind::Events => "event queue",
        }
    }
}

/// All objects of one kind.
pub struct Table<T> {
    kind: Kind,
    slots: RwLock<Slots<T>>,
}

struct Slots<T> {
    all: Vec<Slot<T>>,
    free: Vec<u32>,
}

struct Slot<T> {
    generation: u32,
    object: Option<Arc<Object<T>>>,
}

struct Object<T> {
    poisoned: AtomicBool,
    value: Arc<T>,
}

impl<T> Table<T> {
    pub const fn new(kind: Kind) -> Self {
        let slots = Slots {
            all: Vec::new(),
            free: Vec::new(),
        };
        Self {
            kind,
            slots: RwLock::new(slots),
        }
    }

    /// Gives `value` a handle.
    pub fn insert(&self, value: T) -> Outcome<u64> {
        self.insert_shared(Arc::new(value))
    }

    /// Gives `value`, which others use as well, a handle.
    pub fn insert_shared(&self, value: Arc<T>) -> Outcome<u64> {
        let object = Arc::new(Object {
            poisoned: AtomicBool::new(false),
            value,
        });
        let mut slots = self.write();
        let index = match slots.free.pop() {
            Some(index) => index,
            None => slots.grow()?,
        };
        let slot = &mut slots.all[index as usize];
        slot.object = Some(object);
        Ok(self.name(index, slot.generation))
    }

    /// Uses the object that `handle` names. A panic in `work` poisons it.
    pub fn with<R>(&self, handle: u64, work: impl FnOnce(&Arc<T>) -> Outcome<R>) -> Outcome<R> {
        let object = self.find(handle)?;
        if object.poisoned.load(Ordering::Acquire) {
            return Err(Failure::panicked());
        }
        catch_unwind(AssertUnwindSafe(|| work(&object.value))).unwrap_or_else(|_| {
            object.poisoned.store(true, Ordering::Release);
            Err(Failure::panicked())
        })
    }

    /// The object that `handle` names, to be used later.
    pub fn get(&self, handle: u64) -> Outcome<Arc<T>> {
        self.with(handle, |value| Ok(Arc::clone(value)))
    }

    /// Ends the handle, poisoned or not, and gives its object to the caller.
    pub fn remove(&self, handle: u64) -> Outcome<Arc<T>> {
        let (index, generation) = self.parse(handle)?;
        let mut slots = self.write();
        let slot = slots.all.get_mut(index as usize);
        let slot = slot.filter(|slot| slot.generation == generation);
        let slot = slot.ok_or_else(|| self.unknown(handle))?;
        let object = slot.object.take().ok_or_else(|| self.unknown(handle))?;
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            slots.free.push(index);
        }
        Ok(Arc::clone(&object.value))
    }

    fn find(&self, handle: u64) -> Outcome<Arc<Object<T>>> {
        let (index, generation) = self.parse(handle)?;
        let slots = self.read();
        let slot = slots.all.get(index as usize);
        let slot = slot.filter(|slot| slot.generation == generation);
        let object = slot.and_then(|slot| slot.object.as_ref());
        object.map(Arc::clone).ok_or_else(|| self.unknown(handle))
    }

    fn name(&self, index: u32, generation: u32) -> u64 {
        let kind = u64::from(self.kind as u8) << (INDEX_BITS + GENERATION_BITS);
        kind | u64::from(generation) << INDEX_BITS | u64::from(index)
    }

    fn parse(&self, handle: u64) -> Outcome<(u32, u32)> {
        if handle >> (INDEX_BITS + GENERATION_BITS) != u64::from(self.kind as u8) {
            return Err(self.unknown(handle));
        }
        Ok(((handle & INDEX_MASK) as u32, (handle >> INDEX_BITS) as u32))
    }

    fn unknown(&self, handle: u64) -> Failure {
        Failure::invalid_handle(format!(
            "{handle:#x} is no handle of a living {}: it was freed, or is of another kind, or never existed",
            self.kind.name()
        ))
    }

    fn read(&self) -> RwLockReadGuard<'_, Slots<T>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Slots<T>> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Slots<T> {
    fn grow(&mut self) -> Outcome<u32> {
        let index = self.all.len() as u64;
        if index > INDEX_MASK {
            return Err(Failure::exhausted("there are too many living handles; free some"));
        }
        self.all.push(Slot {
            generation: 1,
            object: None,
        });
        Ok(index as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::{SANDBOX_ERROR_INVALID_HANDLE, SANDBOX_ERROR_PANICKED};

    fn code<T>(outcome: Outcome<T>) -> i32 {
        outcome.err().map_or(0, |failure| failure.code())
    }

    #[test]
    fn a_freed_handle_stays_dead_when_its_slot_lives_again() {
        let table = Table::new(Kind::Text);
        let first = table.insert(1).unwrap();
        assert_eq!(*table.remove(first).unwrap(), 1);
        let second = table.insert(2).unwrap();
        assert_eq!(first & INDEX_MASK, second & INDEX_MASK);
        assert_eq!(code(table.get(first)), SANDBOX_ERROR_INVALID_HANDLE);
        assert_eq!(code(table.remove(first)), SANDBOX_ERROR_INVALID_HANDLE);
        assert_eq!(*table.get(second).unwrap(), 2);
    }

    #[test]
    fn handles_of_other_kinds_and_inventions_are_refused() {
        let (texts, errors) = (Table::new(Kind::Text), Table::<i32>::new(Kind::Error));
        let text = texts.insert(1).unwrap();
        for handle in [0, 1, u64::MAX, text, text | INDEX_MASK] {
            assert_eq!(code(errors.get(handle)), SANDBOX_ERROR_INVALID_HANDLE, "{handle:#x}");
        }
    }

    #[test]
    fn a_slot_without_generations_is_not_taken_again() {
        let table = Table::new(Kind::Spec);
        let handle = table.insert(1).unwrap();
        table.remove(handle).unwrap();
        table.write().all[0].generation = u32::MAX;
        let last = table.insert(2).unwrap();
        table.remove(last).unwrap();
        let other = table.insert(3).unwrap();
        assert_ne!(last & INDEX_MASK, other & INDEX_MASK);
        assert_eq!(code(table.get(last)), SANDBOX_ERROR_INVALID_HANDLE);
    }

    #[test]
    fn a_panic_poisons_the_object_and_leaves_it_to_be_freed() {
        let table = Table::new(Kind::Spec);
        let handle = table.insert(1).unwrap();
        let panicking = table.with(handle, |_| -> Outcome<()> { panic!("a defect") });
        assert_eq!(code(panicking), SANDBOX_ERROR_PANICKED);
        assert_eq!(code(table.get(handle)), SANDBOX_ERROR_PANICKED);
        assert_eq!(*table.remove(handle).unwrap(), 1);
        assert_eq!(code(table.get(handle)), SANDBOX_ERROR_INVALID_HANDLE);
    }
}
