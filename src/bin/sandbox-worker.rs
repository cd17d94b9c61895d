//! The program for embedders that cannot be their own workers: see `sandbox::worker`.

fn main() {
    sandbox::worker::run_if_worker();
    eprintln!("this program is started by the sandbox library");
}
