//! What a command has to say: lines for people as it goes on, or one document for programs at its end.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;

use serde::Serialize;

use crate::apply::Verified;
use crate::cli::Fault;
use crate::cli::text::{err, joined, out, sanitize};
use crate::name::MachineName;
use crate::spec::{HealthCheck, definition_path};

/// Shared by all who speak.
#[derive(Debug, Default, Clone)]
pub struct Report(Rc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    json: Cell<bool>,
    quiet: Cell<bool>,
    /// Whether a document of its own has been printed.
    answered: Cell<bool>,
    /// Whether a machine does not do what it is for.
    fails: Cell<bool>,
    said: RefCell<Said>,
}

/// The document of a command that has none of its own.
#[derive(Debug, Default, Serialize)]
struct Said {
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorView>,
    /// What else went wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ErrorView>,
    /// What was done, in sentences.
    done: Vec<String>,
    notes: Vec<String>,
    /// Where machines were seen.
    machines: Vec<Seen>,
}

/// An error for a program.
#[derive(Debug, Clone, Serialize)]
pub struct ErrorView {
    pub message: String,
    pub hint: Option<String>,
}

#[derive(Debug, Serialize)]
struct Seen {
    name: MachineName,
    /// Where it answers.
    address: Option<Ipv6Addr>,
    /// Whether that is the planned address.
    #[serde(skip_serializing_if = "Option::is_none")]
    planned: Option<bool>,
    /// Seconds from its start to its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<f64>,
    /// What it has from the LAN.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lan: Vec<IpAddr>,
    /// Whether it does what its definition asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<CheckView>,
}

/// A machine's check, and how it ended.
#[derive(Debug, Clone, Serialize)]
pub struct CheckView {
    pub asked: String,
    pub passes: bool,
    /// What is wrong; none where nothing is.
    pub why: Option<String>,
}

impl Seen {
    fn of(verified: &Verified) -> Seen {
        let check = |asked: &HealthCheck, why: Option<&String>| CheckView {
            asked: asked.to_string(),
            passes: why.is_none(),
            why: why.cloned(),
        };
        let (name, address, planned, after, lan, check) = match verified {
            Verified::Answers { machine, address, planned, after } => (
                machine,
                Some(*address),
                planned.address().map(|planned| planned == *address),
                *after,
                &[][..],
                None,
            ),
            Verified::OnLan { machine, addresses } => (machine, None, None, None, &addresses[..], None),
            Verified::Works { machine, check: asked, after } => {
                (machine, None, None, *after, &[][..], Some(check(asked, None)))
            }
            Verified::Fails { machine, check: asked, why } => {
                (machine, None, None, None, &[][..], Some(check(asked, Some(why))))
            }
        };
        let after = after.map(|after| after.as_secs_f64());
        Seen { name: name.clone(), address, planned, after, lan: lan.to_vec(), check }
    }
}

impl Report {
    pub fn begin(&self, json: bool, quiet: bool) {
        self.0.json.set(json);
        self.0.quiet.set(quiet);
    }

    /// Whether a program listens.
    pub fn is_json(&self) -> bool {
        self.0.json.get()
    }

    /// A line of the result, unless quiet.
    pub fn say(&self, line: impl AsRef<str>) {
        if self.is_json() {
            self.0.said.borrow_mut().done.push(line.as_ref().to_owned());
        } else if !self.0.quiet.get() {
            out!("{}", sanitize(line.as_ref()));
        }
    }

    /// What was asked for, as a text of its own.
    pub fn print(&self, text: impl AsRef<str>) {
        if self.is_json() {
            self.0.said.borrow_mut().done.extend(text.as_ref().lines().map(str::to_owned));
        } else {
            out!("{}", text.as_ref());
        }
    }

    /// What the user should know; for people it is said by whoever shows progress.
    pub fn note(&self, text: &str) {
        self.0.said.borrow_mut().notes.push(text.to_owned());
    }

    /// The same, and at once on the terminal: where no session shows its progress.
    pub fn tell(&self, text: &str) {
        self.note(text);
        err!("note: {}", sanitize(text));
    }

    /// Where a machine was seen.
    pub fn saw(&self, verified: &Verified) {
        self.0.said.borrow_mut().machines.push(Seen::of(verified));
        if let Verified::Fails { machine, check, why } = verified {
            self.0.fails.set(true);
            self.fault(&failing(machine, check, why));
        } else if !self.is_json() {
            self.say(tell(verified));
        }
    }

    /// What went wrong beside what was done.
    pub fn fault(&self, fault: &Fault) {
        if self.is_json() {
            self.0.said.borrow_mut().errors.extend(fault.views());
        } else {
            fault.print();
        }
    }

    /// The answer of a command that has a document of its own.
    pub fn answer(&self, value: &impl Serialize) -> Result<(), Fault> {
        let text = serde_json::to_string_pretty(value).map_err(|error| Fault::new(error.to_string()))?;
        out!("{text}");
        self.0.answered.set(true);
        Ok(())
    }

    /// What is printed is another's: no document comes after it.
    pub fn streams(&self) {
        self.0.answered.set(true);
    }

    /// Ends with the command; gives its exit status.
    pub fn end(&self, done: Result<u8, Fault>) -> u8 {
        let status = match &done {
            Ok(0) if self.0.fails.get() => 1,
            Ok(status) => *status,
            Err(fault) => fault.status(),
        };
        if !self.is_json() {
            if let Err(fault) = done {
                fault.print();
            }
            return status;
        }
        let mut said = self.0.said.take();
        if let Err(fault) = done {
            let mut errors = fault.views();
            said.error = if errors.is_empty() { None } else { Some(errors.remove(0)) };
            errors.append(&mut said.errors);
            said.errors = errors;
        }
        if !self.0.answered.get() {
            print(&said, &mut anstream::stdout());
        } else if said.error.is_some() || !said.errors.is_empty() {
            // Standard output has its one document already.
            print(&said, &mut anstream::stderr());
        }
        status
    }
}

fn print(said: &Said, to: &mut impl std::io::Write) {
    // Nobody may be listening any more.
    let _ = serde_json::to_writer_pretty(&mut *to, said);
    let _ = writeln!(to);
}

/// The error of words that clap did not take, for a program.
pub fn usage(error: &clap::Error) {
    let text = error.to_string();
    let mut parts = text.split("\n\n");
    let message = parts.next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let hint = joined(parts.map(str::trim).filter(|part| !part.is_empty()), "; ").replace('\n', " ");
    let error = ErrorView { message, hint: (!hint.is_empty()).then_some(hint) };
    print(&Said { error: Some(error), ..Said::default() }, &mut anstream::stdout());
}

/// A machine that runs, and does not do what it is for.
fn failing(machine: &MachineName, check: &HealthCheck, why: &str) -> Fault {
    let seconds = check.within().as_secs();
    Fault::new(format!("'{machine}' runs, but fails its check, {check}, after {seconds} s: {why}")).hint(format!(
        "`nsctl logs {machine}` tells what its services say; [check] in {} is what is asked, and `within` how long",
        definition_path(machine).display()
    ))
}

/// Where a machine was seen, as a sentence.
pub fn tell(verified: &Verified) -> String {
    match verified {
        Verified::Answers { machine, address, planned, after } => {
            let after = after.map(|after| format!(" ({:.2} s after its start)", after.as_secs_f64()));
            let after = after.unwrap_or_default();
            if planned.address().is_none() {
                format!("{machine} answers at {address} today{after}")
            } else if planned.address() == Some(*address) {
                format!("{machine} answers at {address}{after}")
            } else {
                format!(
                    "{machine} answers at {address}, which its guest chose by RA; {planned} is planned, and not there"
                )
            }
        }
        Verified::OnLan { machine, addresses } if addresses.is_empty() => {
            format!("{machine} has no address from the LAN yet; `nsctl show {machine}` tells")
        }
        Verified::OnLan { machine, addresses } => {
            format!("{machine} has {} from the LAN", joined(addresses, ", "))
        }
        Verified::Works { machine, check, after } => {
            let after = after.map(|after| format!(" ({:.2} s after its start)", after.as_secs_f64()));
            format!("{machine} passes its check, {check}{}", after.unwrap_or_default())
        }
        Verified::Fails { machine, check, why } => format!("{machine} fails its check, {check}: {why}"),
    }
}
