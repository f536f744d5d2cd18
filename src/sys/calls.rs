//! What nsctl asks of systemd, its services and the kernel, for those who want to see it.

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// Whether standard error is the journal: what is inherited may be of another (systemd.exec(5)).
fn is_journal() -> bool {
    let said = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let here =
        nix::sys::stat::fstat(std::io::stderr()).map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
    here.is_ok_and(|here| here == said)
}

/// Shows each call from now on: on standard error, or, where that is the journal (systemd.exec(5),
/// `$JOURNAL_STREAM`), there, with fields of its own: SERVICE, CALL, MICROSECONDS.
pub fn show() {
    // What libraries say of themselves is nobody's business.
    let ours = Targets::new().with_target("nsctl", Level::DEBUG);
    let journal = is_journal().then(tracing_journald::layer).and_then(Result::ok);
    // A second time, in a test, is no harm.
    let _ = match journal {
        Some(journal) => {
            let journal = journal.with_field_prefix(None).with_syslog_identifier("nsctl".to_owned());
            tracing_subscriber::registry().with(journal.with_filter(ours)).try_init()
        }
        None => {
            let lines =
                fmt::layer().with_writer(std::io::stderr).without_time().with_target(false).with_level(false);
            tracing_subscriber::registry().with(lines.compact().with_filter(ours)).try_init()
        }
    };
}
