//! Compiles the `.proto` files, and keeps their descriptors for gRPC reflection.

#[cfg(feature = "grpc")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["objects", "look", "dataplane"].map(|name| format!("millrace/v1/{name}.proto"));
    println!("cargo::rerun-if-changed=millrace");
    let descriptors = protox::compile(files, ["."])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    // With comments and names as reflection clients want them; prost's own copy leaves nothing out.
    std::fs::write(out.join("millrace.v1.bin"), protox::prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure().build_transport(false).compile_fds(descriptors)?;
    Ok(())
}

#[cfg(not(feature = "grpc"))]
fn main() {}
