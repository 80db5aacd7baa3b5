use super::*;

const SIZE: u64 = 10_000;

fn disk() -> (MemoryDisk, Arc<dyn File>, &'static Path) {
    let (disk, path) = (MemoryDisk::new(), Path::new("/d/f"));
    disk.create_dir(Path::new("/d")).unwrap();
    let file = disk.create(path, SIZE).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    (disk, file, path)
}

fn read(disk: &MemoryDisk, path: &Path) -> Vec<u8> {
    crate::env::disk::read_file(disk, path, usize::MAX).unwrap()
}

fn seeded(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 17
    }
}

#[test]
fn a_crash_keeps_what_was_synced_and_any_part_of_the_rest() {
    let (mut lost, mut whole, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let (disk, file, path) = disk();
        file.write_at(&[1; 6000], 2000).unwrap();
        file.sync().unwrap();
        file.write_at(&[2; 6000], 2000).unwrap();
        disk.crash(&mut seeded(seed));
        assert!(file.read_at(&mut [0; 1], 0).is_err(), "the old handle is dead");
        assert!(disk.open(path).is_err(), "and so is the disk of that boot");
        let data = read(&disk.reboot(), path);
        assert!(data[..2000].iter().chain(&data[8000..]).all(|byte| *byte == 0));
        match data[2000..8000].iter().filter(|byte| **byte == 2).count() {
            0 => lost += 1,
            6000 => whole += 1,
            _ => torn += 1,
        }
        assert!(data[2000..8000].iter().all(|byte| [1, 2].contains(byte)));
    }
    assert!(lost > 10 && whole > 10 && torn > 10, "{lost} {whole} {torn}");
}

#[test]
fn a_name_is_durable_only_after_its_directory_was_synced() {
    let mut kept = 0;
    for seed in 0..50 {
        let (disk, _, path) = disk();
        disk.rename(path, Path::new("/d/g")).unwrap();
        disk.crash(&mut seeded(seed));
        let names = disk.reboot().list(Path::new("/d")).unwrap();
        assert!(names == [PathBuf::from("/d/f")] || names == [PathBuf::from("/d/g")], "{names:?}");
        kept += usize::from(names == [PathBuf::from("/d/g")]);
    }
    assert!((10..40).contains(&kept), "{kept}");
}

#[test]
fn a_failed_sync_loses_the_writes_though_they_are_read_until_the_crash() {
    let (disk, file, path) = disk();
    file.write_at(b"new", 0).unwrap();
    disk.fail_syncs(1);
    assert!(file.sync().is_err());
    file.sync().unwrap();
    assert_eq!(&read(&disk, path)[..3], b"new");
    disk.crash(&mut seeded(1));
    assert_eq!(&read(&disk.reboot(), path)[..3], [0; 3]);
}

#[test]
fn a_feigned_sync_may_lose() {
    let mut lost = 0;
    for seed in 0..50 {
        let (disk, file, path) = disk();
        disk.lie_about_syncs(true);
        file.write_at(b"new", 0).unwrap();
        file.sync().unwrap();
        disk.crash(&mut seeded(seed));
        lost += usize::from(&read(&disk.reboot(), path)[..3] != b"new");
    }
    assert!((10..50).contains(&lost), "{lost}");
}

#[test]
fn full_broken_rotten_and_set_back() {
    let (disk, file, path) = disk();
    file.write_at(b"old", 0).unwrap();
    file.sync().unwrap();
    let image = disk.snapshot();
    disk.set_capacity(Some(SIZE + 5));
    assert_eq!(disk.create(Path::new("/d/g"), 6).err().map(|error| error.kind()), Some(io::ErrorKind::StorageFull));
    assert_eq!(disk.free_space(path).unwrap(), 5);
    disk.break_range(path, 1..2);
    assert!(file.read_at(&mut [0; 3], 0).is_err());
    assert!(file.read_at(&mut [0; 3], 2).is_ok());
    disk.mend();
    disk.flip_bit(path, 0, 1).unwrap();
    assert_eq!(&read(&disk, path)[..3], b"mld");
    disk.restore(&image);
    assert!(file.sync().is_err(), "handles are dead");
    assert_eq!(&read(&disk.reboot(), path)[..3], b"old");
}

#[test]
fn one_holder_a_lock() {
    let (disk, _, _) = disk();
    let path = Path::new("/d/lock");
    let held = disk.lock(path).unwrap();
    assert_eq!(disk.lock(path).err().map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
    drop(held);
    let _held = disk.lock(path).unwrap();
    disk.crash(&mut seeded(1));
    disk.reboot().lock(path).unwrap();
}

#[test]
fn counts_what_a_crash_took() {
    let (mut counts, crashes) = (DiskCounts::default(), 100);
    for seed in 0..crashes {
        let (disk, file, _) = disk();
        file.write_at(&[1; 6000], 0).unwrap();
        file.write_at(&[0; 100], 8000).unwrap();
        let name = disk.create(Path::new("/d/g"), 1).unwrap();
        name.sync().unwrap();
        disk.crash(&mut seeded(seed));
        let counted = disk.counts();
        let data = read(&disk.reboot(), Path::new("/d/f"));
        let kept = data[..6000].iter().filter(|byte| **byte == 1).count();
        assert_eq!(counted.writes_lost, u64::from(kept == 0), "zeros on zeros are not lost");
        assert_eq!(counted.writes_torn, u64::from(kept > 0 && kept < 6000));
        assert_eq!(counted.names_lost, u64::from(disk.reboot().open(Path::new("/d/g")).is_err()));
        assert_eq!(counted.promises_broken, 0);
        counts.writes_torn += counted.writes_torn;
        counts.names_lost += counted.names_lost;
    }
    assert!(counts.writes_torn > 10 && (10..90).contains(&counts.names_lost), "{counts:?}");
}

#[test]
fn counts_what_syncs_reads_and_writes_met() {
    let (disk, file, path) = disk();
    disk.lie_about_syncs(true);
    file.sync().unwrap();
    assert_eq!(disk.counts(), DiskCounts::default(), "there was nothing to lie about");
    file.write_at(b"new", 0).unwrap();
    file.sync().unwrap();
    disk.rename(path, Path::new("/d/g")).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(disk.counts().syncs_feigned, 2);
    let before = disk.counts();
    let mut zeros = || 0;
    disk.crash(&mut zeros);
    assert_eq!(disk.counts().since(&before).promises_broken, 2);
    let disk = disk.reboot();
    let file = disk.open(path).unwrap();
    disk.lie_about_syncs(false);
    disk.fail_syncs(1);
    disk.set_delay(DiskDelay { sync: Duration::from_millis(1), ..DiskDelay::default() });
    assert!(file.sync().is_err());
    disk.set_capacity(Some(SIZE - 1));
    assert!(file.write_at(b"in place", 0).is_ok());
    assert!(file.write_at(b"growing", SIZE).is_err());
    disk.break_range(path, 0..1);
    assert!(file.read_at(&mut [0; 3], 0).is_err());
    let counts = disk.counts().since(&before);
    assert_eq!((counts.syncs_failed, counts.syncs_delayed, counts.refused_full, counts.reads_failed), (1, 1, 1, 1));
}

#[test]
fn a_write_lands_elsewhere() {
    let (disk, file, path) = disk();
    file.write_at(&[7; 100], 0).unwrap();
    file.sync().unwrap();
    let other = Path::new("/d/other");
    disk.create(other, 200).unwrap();
    assert!(disk.misdirect((path, 0), (other, 150), 100).is_err());
    disk.misdirect((path, 0), (other, 50), 100).unwrap();
    assert_eq!(read(&disk, path)[..100], [0; 100]);
    assert_eq!(read(&disk, other)[40..160], [[0; 10].as_slice(), &[7; 100], &[0; 10]].concat());
    assert_eq!(disk.counts().writes_misdirected, 1);
}

#[test]
fn says_that_it_has_stopped_once_it_refuses() {
    let (disk, file, _) = disk();
    disk.stop_after(1);
    file.write_at(b"new", 0).unwrap();
    assert!(!disk.has_stopped());
    assert!(file.sync().is_err());
    assert!(disk.has_stopped());
    disk.crash(&mut seeded(1));
    assert!(!disk.has_stopped());
}
