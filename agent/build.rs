fn main() {
    let out = std::env::var("OUT_DIR").unwrap();
    std::fs::copy("target/ebpf/bpfel-unknown-none/release/egress-warden-ebpf", format!("{out}/egress-warden.bpf.o")).unwrap();
    println!("cargo:rerun-if-changed=target/ebpf/bpfel-unknown-none/release/egress-warden-ebpf");
}
