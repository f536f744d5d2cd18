//! The laboratory: real systemd hosts to test, show and measure nsctl on.

mod bench;
mod cases;
mod demo;
mod emulated;
mod lab;
mod manuals;
mod report;
mod sbom;
mod shell;
mod shells;
mod torture;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use libtest_mimic::{Arguments, Failed, Trial};

use lab::{Lab, Suite, Trees};
use report::Report;

const USAGE: &str = "usage: lab test [--quick] [FILTER...] [OPTIONS OF cargo test]
       lab shell SUITE [COMMAND...]
       lab demo [--draw]
       lab bench [SUBJECT]
       lab torture SUITE [SEED [COUNT]]
       lab emulated [SUITE]
       lab trees
       lab shells
       lab manuals FOLDER
       lab sbom FILE";

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("test") => test(arguments),
        Some("shell") => shell::run(&arguments.collect::<Vec<_>>()),
        Some("demo") => demo::run(arguments.next().as_deref() == Some("--draw")),
        Some("bench") => bench::run(&arguments.collect::<Vec<_>>()),
        Some("torture") => torture::run(&arguments.collect::<Vec<_>>()),
        Some("emulated") => {
            let suite = arguments.next().unwrap_or_else(|| Suite::Trixie.name().to_owned());
            emulated::run(Suite::named(&suite).context(USAGE)?)
        }
        Some("sbom") => sbom::write(Path::new(&arguments.next().context(USAGE)?)),
        Some("shells") => shells::run(),
        Some("manuals") => manuals::write(Path::new(&arguments.next().context(USAGE)?)),
        Some("trees") => Trees::open(&Suite::ALL).map(drop),
        _ => bail!(USAGE),
    }
}

/// Runs every case on every suite, or, to be quick, those that take long on one of them; a filter such as `trixie::routed` picks some.
fn test(arguments: impl Iterator<Item = String>) -> Result<()> {
    let (quick, words): (Vec<String>, Vec<String>) = arguments.partition(|word| word == "--quick");
    let is_quick = !quick.is_empty();
    let mut options = Arguments::from_iter(std::iter::once("lab".to_owned()).chain(words));
    // A host takes a core or so: more of them at once only makes each slower.
    options.test_threads = options.test_threads.or(Some(2));
    let trees = if options.list { None } else { Some(Arc::new(Trees::open(&Suite::ALL)?)) };
    let report = Arc::new(Report::default());
    let pairs = cases::ALL.iter().enumerate().flat_map(|(at, case)| {
        let due = Suite::ALL.into_iter().filter(move |suite| case.is_due(at, *suite, is_quick));
        due.map(move |suite| (suite, *case))
    });
    let trials = pairs.map(|(suite, case)| {
        let (trees, report) = (trees.clone(), report.clone());
        let name = format!("{}::{}", suite.name(), case.name);
        Trial::test(name.clone(), move || {
            let start = Instant::now();
            let done = trial(trees.as_deref(), suite, case);
            report.add(&name, start.elapsed(), done.as_ref().err().map(|failure| failure.why.as_str()));
            done.map_err(|failure| Failed::from(format!("{}\n{}", failure.journal, failure.why)))
        })
    });
    let conclusion = libtest_mimic::run(&options, trials.collect());
    report.print();
    if conclusion.has_failed() {
        std::process::exit(101);
    }
    Ok(())
}

/// Why a case failed, and what the host's journal said by then.
struct Failure {
    journal: String,
    why: String,
}

fn trial(trees: Option<&Trees>, suite: Suite, case: cases::Case) -> Result<(), Failure> {
    let unbooted = |error| Failure { journal: String::new(), why: format!("{error:#}") };
    let trees = trees.context("no trees").map_err(unbooted)?;
    let mut lab = Lab::boot(trees, suite).map_err(unbooted)?;
    (case.run)(&mut lab).map_err(|error| {
        let journal = lab.run(&["journalctl", "-b", "--no-pager", "-n", "60"]).map(|done| done.stdout);
        Failure {
            journal: format!("journal of the host:\n{}", journal.unwrap_or_default()),
            why: format!("{error:#}"),
        }
    })
}
