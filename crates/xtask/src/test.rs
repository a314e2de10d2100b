//! `cargo xtask test`: what CI runs, and what a contributor runs before pushing.

use std::time::Instant;

use crate::shell::{self, Aside, cargo, heading};
use crate::{model, page, system, web};

/// Installs what is missing, then the quick checks before the slow ones; stops at the first that
/// fails.
pub fn run(rest: &[String]) -> Result<(), String> {
    shell::no_arguments(rest, "test")?;
    let started = Instant::now();
    heading("Format");
    shell::run(cargo().args(["fmt", "--all", "--check"]))?;
    heading("What the tests need");
    system::vulkan()?;
    let mpi = system::mpi()?;
    let genes = model::test_data()?;
    heading("Lints");
    let lint = |more: &[&str]| {
        shell::run(
            cargo()
                .args(["clippy", "--workspace", "--all-targets", "--quiet"])
                .args(more)
                .args(["--", "-D", "warnings"]),
        )
    };
    lint(&[])?;
    // One build for all tests: those of MPI are among them where there is one.
    let features: &[&str] = if mpi { &["--features", "bft-cli/mpi"] } else { &[] };
    if mpi {
        lint(features)?;
    }
    heading("Tests");
    let tests = || {
        let mut command = cargo();
        command.args(["test", "--workspace", "--quiet"]).args(features);
        command
    };
    shell::run(tests().arg("--no-run"))?;
    // That build left the command line, which the page has to agree with. What is linked for the
    // browser takes minutes on one thread, which the tests seldom need both of.
    let page = Aside::start(cargo().arg("xtask").args(web::BUILD_TESTS))?;
    let tested = shell::run(
        tests()
            .arg("--no-fail-fast")
            .env("BFT_CACHE", model::cache()?)
            .envs((!genes).then_some(("BFT_TEST_NO_GENES", "1"))),
    );
    let built = page.finish();
    tested.and(built)?;
    page::drive()?;
    println!("\nall passed in {:.0} minutes", started.elapsed().as_secs_f64() / 60.0);
    Ok(())
}
