//! A mapped file that is changed while it is in use is named, whatever happens. Each case is its
//! own process: maps are the process's, and one case ends it.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output};

use bft_formats::{BUS_ERROR_EXIT, Bytes, check_maps, explain_bus_errors};

/// Runs one case below in a process of its own.
fn apart(case: &str, file: &Path) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "case", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env("CASE", case).env("FILE", file).output().unwrap()
}

const PAGE: u64 = 1 << 16;

/// What [`apart`] runs.
#[test]
#[ignore = "run by the others"]
fn case() {
    let file = std::env::var_os("FILE").unwrap();
    let file = Path::new(&file);
    explain_bus_errors();
    let bytes = Bytes::map(file).unwrap();
    check_maps().unwrap();
    let cut = |length| File::options().write(true).open(file).unwrap().set_len(length).unwrap();
    match &*std::env::var("CASE").unwrap() {
        "read" => {
            cut(0);
            let end = std::hint::black_box(bytes[bytes.len() - 1]);
            unreachable!("{end} was read of a file that is not there");
        }
        "read in a thread" => {
            cut(PAGE);
            std::thread::spawn(move || std::hint::black_box(bytes[bytes.len() - 1])).join().unwrap();
        }
        "cut" => {
            cut(PAGE - 1);
            println!("<{}>", check_maps().unwrap_err());
            // Only what is in use counts.
            drop(bytes);
            check_maps().unwrap();
            println!("well");
        }
        "touched" => {
            let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
            File::options().write(true).open(file).unwrap().set_modified(later).unwrap();
            println!("<{}>", check_maps().unwrap_err());
        }
        "other" => {
            // A map that others have made: what its error was is what it is.
            use std::os::fd::AsRawFd;
            let open = File::open(file).unwrap();
            // SAFETY: a new map is made, and read at its start; that this ends the process is what is
            // tested.
            unsafe {
                let map =
                    libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, open.as_raw_fd(), 0);
                assert_ne!(map, libc::MAP_FAILED);
                cut(0);
                unreachable!("{} was read", map.cast::<u8>().read_volatile());
            }
        }
        "many" => {
            // More than the table holds, and each place is used again.
            for _ in 0..3 {
                let maps: Vec<Bytes> = (0..300).map(|_| Bytes::map(file).unwrap()).collect();
                drop(maps);
            }
            let last = Bytes::map(file).unwrap();
            cut(0);
            std::hint::black_box(last[0]);
        }
        other => panic!("no case {other}"),
    }
}

fn file(folder: &Path, name: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    File::create(&path).unwrap().set_len(4 * PAGE).unwrap();
    path
}

#[test]
fn reading_what_is_no_longer_there_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let long = "n".repeat(200);
    let name = format!("m\u{1b}[2J{long}.gguf");
    for case in ["read", "read in a thread", "many"] {
        let done = apart(case, &file(folder.path(), &name));
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(BUS_ERROR_EXIT.into()), "{case}: {said}");
        let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(lines.len(), 1, "{case}: {said:?}");
        assert!(lines[0].contains(&format!("m\\u{{1b}}[2J{long}.gguf: was cut short while it was in use")), "{said:?}");
    }
}

#[test]
fn another_bus_error_is_what_it_was() {
    use std::os::unix::process::ExitStatusExt;
    let folder = tempfile::tempdir().unwrap();
    let done = apart("other", &file(folder.path(), "m.gguf"));
    assert_eq!(done.status.signal(), Some(libc::SIGBUS), "{done:?}");
}

#[test]
fn a_change_is_seen_before_the_next_step() {
    let folder = tempfile::tempdir().unwrap();
    for (case, found) in
        [("cut", "found 65535 bytes, expected 262144 bytes"), ("touched", "found a later time of change")]
    {
        let done = apart(case, &file(folder.path(), "m.gguf"));
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{done:?}");
        assert!(said.contains("m.gguf: it was changed while it was in use: ") && said.contains(found), "{said}");
    }
}
