use std::fs::File;
use std::io::{self, Write};

use super::*;

const WHEEL: Package = Package { registry: Registry::Wheel, name: "a", version: "1", file: "a-1.whl", megabytes: 1 };

/// SHA-256 of "abc".
const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn item(sha256: &'static str) -> Item {
    Item { file: "b/abc", member: "inside/abc", sha256 }
}

fn wheel(folder: &Path, member: &str, content: &[u8]) {
    let file = File::create(folder.join(WHEEL.file)).expect("a file");
    let mut writer = zip::ZipWriter::new(file);
    let options = zip::write::SimpleFileOptions::default();
    writer.start_file(member, options).expect("a member");
    writer.write_all(content).expect("written");
    writer.finish().expect("a zip file");
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let name = |entry: io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
    entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect()
}

#[test]
fn a_file_comes_once_and_a_damaged_one_comes_again() {
    let (from, cache) = (tempfile::tempdir(), tempfile::tempdir());
    let (from, cache) = (from.expect("a folder"), cache.expect("a folder"));
    wheel(from.path(), "inside/abc", b"abc");
    let fetch = || {
        let mut events = Vec::new();
        get(cache.path(), &WHEEL, &[item(ABC)], Origin::Folder(from.path()), |event| {
            events.push(format!("{event:?}").split('(').next().unwrap_or("").to_owned());
        })
        .expect("fetched");
        events.join(" ")
    };
    assert_eq!(fetch(), "Placed");
    assert_eq!(fetch(), "Cached");
    fs::write(cache.path().join("b/abc"), b"ab").expect("damaged");
    assert_eq!(fetch(), "Damaged Placed");
    assert_eq!(fs::read(cache.path().join("b/abc")).expect("a file"), b"abc");
    assert_eq!(names(cache.path()), ["b"]);
}

#[test]
fn another_build_a_cut_archive_and_a_missing_one_are_named_and_leave_nothing() {
    let (from, cache) = (tempfile::tempdir(), tempfile::tempdir());
    let (from, cache) = (from.expect("a folder"), cache.expect("a folder"));
    let fail = || {
        get(cache.path(), &WHEEL, &[item(ABC)], Origin::Folder(from.path()), |_| ())
            .expect_err("nothing to fetch")
            .to_string()
    };
    let missing = fail();
    assert!(missing.contains("a-1.whl") && missing.contains("--from"), "{missing}");
    let offline = get(cache.path(), &WHEEL, &[item(ABC)], Origin::Nowhere("--offline"), |_| ());
    let offline = offline.expect_err("nothing may be fetched").to_string();
    assert!(offline.starts_with("a==1 is not in the cache, and --offline keeps bft off the network"), "{offline}");
    wheel(from.path(), "inside/abc", b"abd");
    let other = fail();
    assert!(other.contains("inside/abc of a==1") && other.contains(ABC), "{other}");
    wheel(from.path(), "elsewhere", b"abc");
    assert!(fail().contains("inside/abc"));
    fs::write(from.path().join(WHEEL.file), b"PK no zip").expect("a file");
    assert!(fail().contains("damaged or cut short"));
    assert_eq!(names(cache.path()), [""; 0]);
}

#[test]
fn a_cached_file_is_checked_when_it_is_used() {
    let cache = tempfile::tempdir().expect("a folder");
    let path = sources::Dataset::Ligands.path(cache.path());
    assert!(path.expect_err("nothing").to_string().contains("run `bft bio fetch` first"));
    let file = cache.path().join("bio/ligand_receptor.csv");
    fs::create_dir(cache.path().join("bio")).expect("a folder");
    fs::write(&file, b"abc").expect("a file");
    let damaged = sources::Dataset::Ligands.path(cache.path()).expect_err("damaged").to_string();
    assert!(damaged.contains(ABC) && damaged.contains("run `bft bio fetch`, which fetches it again"), "{damaged}");
    // What is known by size and time is not read again, and nothing else is known.
    let mut known = verified::Verified::of(Some(cache.path()));
    assert!(!known.knows(&file, ABC));
    known.add(&file, ABC);
    known.save();
    let known = || verified::Verified::of(Some(cache.path()));
    assert!(known().knows(&file, ABC) && !known().knows(&file, "another"));
    let open = fs::File::options().write(true).open(&file).expect("a file");
    open.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(60)).expect("a time");
    assert!(!known().knows(&file, ABC));
    fs::write(cache.path().join("verified.json"), b"{]").expect("damaged");
    assert!(!known().knows(&file, ABC));
}

#[test]
fn what_a_killed_process_left_is_removed() {
    let (from, cache) = (tempfile::tempdir(), tempfile::tempdir());
    let (from, cache) = (from.expect("a folder"), cache.expect("a folder"));
    wheel(from.path(), "inside/abc", b"abc");
    fs::create_dir(cache.path().join(".bft-Ab12cD")).expect("a folder");
    fs::write(cache.path().join(".bft-Ab12cD/a-1.whl"), b"half").expect("a file");
    get(cache.path(), &WHEEL, &[item(ABC)], Origin::Folder(from.path()), |_| ()).expect("fetched");
    if cfg!(unix) {
        assert_eq!(names(cache.path()), ["b"]);
    }
}

/// A Debian package with one file, as `dpkg-deb` lays it out.
fn deb(path: &Path, content: &[u8]) {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "./usr/abc", content).expect("a member");
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::default()).expect("xz");
    xz.write_all(&tar.into_inner().expect("a tar file")).expect("written");
    let data = xz.finish().expect("an xz file");
    let mut out = b"!<arch>\n".to_vec();
    for (name, bytes) in [("debian-binary", b"2.0\n\n".as_slice()), ("data.tar.xz", &data)] {
        // An odd length, so that padding is exercised.
        out.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100644, bytes.len()).bytes());
        out.extend(bytes);
        if bytes.len() % 2 == 1 {
            out.push(b'\n');
        }
    }
    fs::write(path, out).expect("a file");
}

#[test]
fn a_debian_package_s_file_comes_out_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.deb");
    deb(&path, &[7; 100_000]);
    let found = unpack::members(Registry::Deb, &path, &["usr/abc"], folder.path());
    let found = found.expect("unpacked");
    assert_eq!(fs::read(&found[0]).expect("a file"), vec![7; 100_000]);
    let missing = unpack::members(Registry::Deb, &path, &["usr/other"], folder.path());
    assert!(missing.is_err());
    let whole = fs::read(&path).expect("a file");
    fs::write(&path, &whole[..whole.len() - 40]).expect("cut");
    let cut = unpack::members(Registry::Deb, &path, &["usr/abc"], folder.path());
    assert!(cut.expect_err("cut short").to_string().contains("damaged or cut short"));
}
