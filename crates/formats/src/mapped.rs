//! Files mapped into memory, and what happens where one is changed while it is in use.
//!
//! A map shows its file as it is now. Where the file is written anew in place, a model silently
//! becomes another; where it is cut, whoever reads the missing part is ended by SIGBUS. So
//! [`check_maps`], which a device that computes from maps calls before each piece of work, compares
//! length and time of change with those of the beginning, and [`explain_bus_errors`] has the signal,
//! which may come all the same, say which file it was.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use crate::{FormatError, Result};

/// A map, with the file that it shows.
pub(crate) struct Mapped {
    pub map: memmap2::Mmap,
    file: File,
    path: PathBuf,
    length: u64,
    /// Time of the last change; `None` where the system keeps none.
    changed: Option<SystemTime>,
    #[cfg(unix)]
    place: Option<&'static bus::Place>,
}

/// Every map of this process.
static LIVE: Mutex<Vec<Weak<Mapped>>> = Mutex::new(Vec::new());

impl Mapped {
    /// Maps a file; `None` where it is empty.
    pub fn open(path: &Path) -> Result<Option<Arc<Self>>> {
        let file = File::open(path).map_err(|e| FormatError::io("open", path, e))?;
        let metadata = file.metadata().map_err(|e| FormatError::io("open", path, e))?;
        if metadata.len() == 0 {
            return Ok(None);
        }
        // SAFETY: the map is read-only. That nobody changes the file meanwhile cannot be had; what
        // happens then is said above.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| FormatError::io("map", path, e))?;
        let mapped = Arc::new(Self {
            #[cfg(unix)]
            place: bus::enter(map.as_ptr_range(), path),
            map,
            file,
            path: path.to_path_buf(),
            length: metadata.len(),
            changed: metadata.modified().ok(),
        });
        let mut live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|map| map.strong_count() > 0);
        live.push(Arc::downgrade(&mapped));
        Ok(Some(mapped))
    }

    fn check(&self) -> Result<()> {
        let metadata = self.file.metadata().map_err(|e| FormatError::io("look at", &self.path, e))?;
        let found = match (metadata.len(), metadata.modified().ok()) {
            (length, _) if length != self.length => format!("{length} bytes"),
            (_, changed) if changed != self.changed => "a later time of change".to_owned(),
            _ => return Ok(()),
        };
        Err(FormatError::Mismatch {
            file: self.path.display().to_string(),
            what: "it was changed while it was in use".to_owned(),
            found,
            expected: format!("{} bytes that nobody writes to", self.length),
            advice: "start again once the file is whole".to_owned(),
        })
    }
}

#[cfg(unix)]
impl Drop for Mapped {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            place.leave();
        }
    }
}

/// Checks that no file that this process has mapped was changed since; costs a look at the open
/// file each.
///
/// # Errors
/// Names the file and what is found of it.
pub fn check_maps() -> Result<()> {
    let live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
    live.iter().filter_map(Weak::upgrade).try_for_each(|map| map.check())
}

/// Exit code of a process that [`explain_bus_errors`] ends: that of input that cannot be read
/// (`EX_IOERR`).
pub const BUS_ERROR_EXIT: u8 = 74;

/// From here on SIGBUS at an address of a mapped file says which file it is on standard error and
/// ends the process with [`BUS_ERROR_EXIT`]; at any other address all is as it was before. To be
/// called once, by a program, not by a library.
#[cfg(unix)]
pub fn explain_bus_errors() {
    bus::catch();
}

/// What the signal's handler needs, which may neither allocate nor lock.
#[cfg(unix)]
mod bus {
    use std::ops::Range;
    use std::path::Path;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

    use super::BUS_ERROR_EXIT;

    /// Files that can be named at once: more than a model has.
    const PLACES: usize = 256;
    /// Bytes of a name; of a longer one the end is kept.
    const NAME: usize = 512;

    /// Addresses of a map and the name of its file.
    pub struct Place {
        /// 0 where the place is free, [`TAKEN`] while it is written.
        start: AtomicUsize,
        end: AtomicUsize,
        name: [AtomicU8; NAME],
        length: AtomicUsize,
    }

    /// No address is as high.
    const TAKEN: usize = usize::MAX;

    static TABLE: [Place; PLACES] = [const {
        Place {
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            name: [const { AtomicU8::new(0) }; NAME],
            length: AtomicUsize::new(0),
        }
    }; PLACES];

    /// Enters a map into the table; `None` where it is full.
    pub fn enter(addresses: Range<*const u8>, path: &Path) -> Option<&'static Place> {
        let take = |place: &&Place| place.start.compare_exchange(0, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let place = TABLE.iter().find(take)?;
        // Written to a terminal by the handler, which has no means to escape it.
        let name = path.display().to_string().escape_debug().to_string();
        let mut from = name.len().saturating_sub(NAME);
        while !name.is_char_boundary(from) {
            from += 1;
        }
        let name = &name.as_bytes()[from..];
        place.name.iter().zip(name).for_each(|(slot, byte)| slot.store(*byte, Ordering::Relaxed));
        place.length.store(name.len(), Ordering::Relaxed);
        place.end.store(addresses.end as usize, Ordering::Relaxed);
        place.start.store(addresses.start as usize, Ordering::Release);
        Some(place)
    }

    impl Place {
        pub fn leave(&self) {
            self.start.store(TAKEN, Ordering::Release);
            self.end.store(0, Ordering::Relaxed);
            self.start.store(0, Ordering::Release);
        }

        fn holds(&self, address: usize) -> bool {
            self.start.load(Ordering::Acquire) <= address && address < self.end.load(Ordering::Relaxed)
        }
    }

    /// What handled the signal before: Rust's own handler, which tells overflows of a stack.
    static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

    pub fn catch() {
        let mut before = std::mem::MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: sigaction with no new action only writes the present one, which is read only where
        // it was written. The new action is a whole one: zeros are its defaults, and the handler has
        // the form that SA_SIGINFO asks for.
        unsafe {
            if libc::sigaction(libc::SIGBUS, std::ptr::null(), before.as_mut_ptr()) != 0 {
                return;
            }
            if BEFORE.set(before.assume_init()).is_err() {
                return;
            }
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_bus_error as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
        }
    }

    type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

    /// Calls nothing that a signal's handler may not: no allocation, no lock.
    extern "C" fn on_bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the system gives a handler of this form valid information.
        let address = unsafe { (*info).si_addr() } as usize;
        if let Some(place) = TABLE.iter().find(|place| place.holds(address)) {
            explain(place);
        }
        match BEFORE.get() {
            Some(before) if ![libc::SIG_DFL, libc::SIG_IGN].contains(&before.sa_sigaction) => {
                // SAFETY: the action was read from the system. A handler of the form without
                // information is passed arguments that it does not look at.
                let handler: Handler = unsafe { std::mem::transmute(before.sa_sigaction) };
                handler(signal, info, context);
            }
            // The faulty instruction is run again, and ends the process as the signal does.
            // SAFETY: signal may be called in a handler.
            _ => unsafe {
                libc::signal(signal, libc::SIG_DFL);
            },
        }
    }

    /// Says which file it is, and ends the process.
    fn explain(place: &Place) -> ! {
        const WORDS: &[u8] = b": was cut short while it was in use, or its disk can no longer be read; what was saved \
            before is whole: start again once the file is\n";
        let mut text = [0; NAME + 256];
        let mut length = 0;
        let mut add = |bytes: &mut dyn Iterator<Item = u8>| {
            for (slot, byte) in text[length..].iter_mut().zip(bytes) {
                *slot = byte;
                length += 1;
            }
        };
        add(&mut b"\nerror: ".iter().copied());
        let name = &place.name[..place.length.load(Ordering::Relaxed).min(NAME)];
        add(&mut name.iter().map(|byte| byte.load(Ordering::Relaxed)));
        add(&mut WORDS.iter().copied());
        // SAFETY: write and _exit may be called in a handler; the bytes are the text's.
        unsafe {
            libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), length);
            libc::_exit(BUS_ERROR_EXIT.into());
        }
    }
}
