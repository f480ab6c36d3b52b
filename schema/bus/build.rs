//! Compiles the bridge's service. Its messages stand in `schema/proto` with the others; the code is made here, so that the schema needs
//! no gRPC.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "../proto";
    println!("cargo:rerun-if-changed={root}/kubenova/bridge");
    let descriptors = protox::compile(["kubenova/bridge/v1/bridge.proto"], [root])?;
    // A frame's bytes are those that were received, not a copy of them.
    tonic_prost_build::configure().build_transport(false).bytes(".").compile_fds(descriptors)?;
    Ok(())
}
