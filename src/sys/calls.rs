//! What nsctl asks of systemd, its services and the kernel, for those who want to see it.

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// Shows each call from now on: on standard error, or, where that is the journal (systemd.exec(5),
/// `$JOURNAL_STREAM`), there, with fields of its own: SERVICE, CALL, MICROSECONDS.
pub fn show() {
    // What libraries say of themselves is nobody's business.
    let ours = Targets::new().with_target("nsctl", Level::DEBUG);
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
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
