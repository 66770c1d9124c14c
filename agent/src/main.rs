//! scratch
use egress_warden::kernel::*;
use std::os::unix::fs::MetadataExt;
fn main() -> anyhow::Result<()> {
    let t = std::time::Instant::now();
    let e = Enforcer::load(Sizes { words: 1024, workloads: 1, refused_destinations: 1024 }, std::env::args().len() > 1)?;
    println!("{:?}", t.elapsed());
    println!("{:?}", e.verified_instructions()?);
    println!("{:?}", OwnNamespace::of_caller()?);
    let path = std::path::Path::new("/sys/fs/cgroup/unified/egress-warden-scratch");
    std::fs::create_dir(path)?;
    let d = std::fs::File::open(path)?;
    println!("{}", d.metadata()?.ino());
    let t = std::time::Instant::now();
    let r = e.attach(&d, path);
    println!("{:?} {:?}", r, t.elapsed());
    std::fs::remove_dir(path)?;
    Ok(())
}
