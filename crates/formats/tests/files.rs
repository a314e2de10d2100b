//! Files are written whole or not at all.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io;

use bft_formats::{Bytes, TemporaryFolder, remove_leftovers, sha256_bytes, sha256_file, write_atomic};
use common::{assert_says, message};

#[test]
fn a_file_is_replaced_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.txt");
    write_atomic(&path, |w| w.write_all(b"one")).unwrap();
    write_atomic(&path, |w| w.write_all(b"two")).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "two");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_failed_write_leaves_the_old_file_and_no_litter() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.txt");
    write_atomic(&path, |w| w.write_all(b"old")).unwrap();
    let failed = write_atomic(&path, |w| {
        w.write_all(&[0; 100_000])?;
        Err(io::Error::from(io::ErrorKind::StorageFull))
    });
    assert_says(&message(failed), &["cannot write", "a.txt", "no storage space"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let nowhere = write_atomic(&dir.path().join("no/such/a.txt"), |_| Ok(()));
    assert_says(&message(nowhere), &["cannot write", "no/such/a.txt"]);
}

#[cfg(unix)]
#[test]
fn a_finished_file_is_an_ordinary_one() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    fs::write(dir.path().join("plain"), "").unwrap();
    write_atomic(&dir.path().join("atomic"), |_| Ok(())).unwrap();
    assert_eq!(mode("atomic"), mode("plain"));
}

#[cfg(unix)]
#[test]
fn what_a_killed_process_left_is_removed_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    for file in [".bft-Ab12cD", ".bft-notes", ".bft-longer1", ".bft-a_b-c_", "bft-Ab12cD", "a.txt"] {
        fs::write(place(file), "half").unwrap();
    }
    fs::create_dir(place(".bft-Ef34gH")).unwrap();
    fs::write(place(".bft-Ef34gH/model.safetensors"), "half").unwrap();
    std::os::unix::fs::symlink(place("a.txt"), place(".bft-linked")).unwrap();
    // A file and a folder that somebody still writes to.
    let folder = TemporaryFolder::new(dir.path()).unwrap();
    fs::write(folder.path().join("part"), "half").unwrap();
    write_atomic(&place("whole"), |out| {
        out.write_all(b"half")?;
        let removed = remove_leftovers(dir.path()).unwrap();
        assert_eq!(removed, [place(".bft-Ab12cD"), place(".bft-Ef34gH")]);
        out.write_all(b" and half")
    })
    .unwrap();
    assert_eq!(fs::read_to_string(place("whole")).unwrap(), "half and half");
    assert!(folder.path().join("part").exists());
    assert_eq!(remove_leftovers(dir.path()).unwrap(), [""; 0].map(std::path::PathBuf::from));
    drop(folder);
    let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [".bft-a_b-c_", ".bft-linked", ".bft-longer1", ".bft-notes", "a.txt", "bft-Ab12cD", "whole"]);
    assert!(remove_leftovers(&place("none")).unwrap().is_empty());
    assert_says(&message(remove_leftovers(&place("a.txt"))), &["cannot clean", "a.txt"]);
}

#[test]
fn hashes_are_sha_256() {
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(sha256_bytes(b"abc"), abc);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("abc");
    fs::write(&path, "abc").unwrap();
    assert_eq!(sha256_file(&path).unwrap(), abc);
    assert_says(&message(sha256_file(&dir.path().join("none"))), &["cannot open", "none"]);
}

#[test]
fn maps_hold_what_the_file_holds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    fs::write(&path, "0123456789").unwrap();
    let bytes = Bytes::map(&path).unwrap();
    assert_eq!(&*bytes.slice(2..5).unwrap(), b"234");
    // A map outlives its file's name, so a model can be replaced while it runs.
    write_atomic(&path, |w| w.write_all(b"x")).unwrap();
    assert_eq!(&*bytes, b"0123456789");
    fs::write(&path, "").unwrap();
    assert_eq!(Bytes::map(&path).unwrap().len(), 0);
    assert_says(&message(Bytes::map(dir.path())), &["is a folder"]);
    #[cfg(unix)]
    assert_says(&message(Bytes::map("/dev/null".as_ref())), &["is a device or pipe"]);
}
