//! Metrics as text: OpenMetrics 1.0, or the older format of Prometheus, which the textfile collector of
//! node_exporter reads. Pure.

use std::fmt::Write;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    OpenMetrics,
    /// Exposition format 0.0.4.
    Prometheus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It goes up and down.
    Gauge,
    /// It only grows, until what it counts starts anew.
    Counter,
    /// Always 1: what its labels say.
    Info,
}

/// One family of metrics: a name, what it tells, and in which unit ("bytes", "seconds"; none: a number of things).
#[derive(Debug, Clone, Copy)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub unit: Option<&'static str>,
    pub help: &'static str,
}

/// A value, and the labels that it is told by.
pub type Sample<'a> = (Vec<(&'static str, &'a str)>, f64);

/// What is told to who scrapes.
#[derive(Debug)]
pub struct Exposition {
    format: Format,
    text: String,
}

impl Exposition {
    pub fn new(format: Format) -> Exposition {
        Exposition { format, text: String::new() }
    }

    /// All of a family; nothing is said of one that nobody has.
    pub fn add<'a>(&mut self, family: Family, samples: impl IntoIterator<Item = Sample<'a>>) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        let Family { name, kind, unit, help } = family;
        let name = unit.map_or_else(|| name.to_owned(), |unit| format!("{name}_{unit}"));
        let suffix = match kind {
            Kind::Gauge => "",
            Kind::Counter => "_total",
            Kind::Info => "_info",
        };
        // The older format knows no families: each sample has the name that its type is told by.
        let (family, word) = match (self.format, kind) {
            (Format::OpenMetrics, Kind::Info) => (name.clone(), "info"),
            (Format::OpenMetrics, Kind::Counter) => (name.clone(), "counter"),
            (Format::Prometheus, Kind::Counter) => (format!("{name}{suffix}"), "counter"),
            (_, Kind::Gauge) | (Format::Prometheus, Kind::Info) => (format!("{name}{suffix}"), "gauge"),
        };
        let _ = writeln!(self.text, "# HELP {family} {help}\n# TYPE {family} {word}");
        if let (Some(unit), Format::OpenMetrics) = (unit, self.format) {
            let _ = writeln!(self.text, "# UNIT {family} {unit}");
        }
        for (labels, value) in samples {
            let labels: Vec<String> =
                labels.into_iter().map(|(key, text)| format!("{key}=\"{}\"", escaped(text))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _ = writeln!(self.text, "{name}{suffix}{labels} {value}");
        }
    }

    /// The whole text.
    pub fn end(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// In the quotes of a label.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU: Family =
        Family { name: "x_cpu", kind: Kind::Counter, unit: Some("seconds"), help: "CPU time." };
    const STATE: Family = Family { name: "x", kind: Kind::Info, unit: None, help: "What it is." };
    const UP: Family = Family { name: "x_up", kind: Kind::Gauge, unit: None, help: "Whether it runs." };

    fn text(format: Format) -> String {
        let mut all = Exposition::new(format);
        all.add(CPU, [(vec![("machine", "web")], 1.5), (vec![("machine", "a\"b\\\n")], 3.0)]);
        all.add(STATE, [(vec![("machine", "web"), ("mode", "routed")], 1.0)]);
        all.add(UP, []);
        all.add(UP, [(vec![], 0.0)]);
        all.end()
    }

    #[test]
    fn both_formats() {
        assert_eq!(
            text(Format::OpenMetrics),
            "# HELP x_cpu_seconds CPU time.\n# TYPE x_cpu_seconds counter\n# UNIT x_cpu_seconds seconds\n\
             x_cpu_seconds_total{machine=\"web\"} 1.5\nx_cpu_seconds_total{machine=\"a\\\"b\\\\\\n\"} 3\n\
             # HELP x What it is.\n# TYPE x info\nx_info{machine=\"web\",mode=\"routed\"} 1\n\
             # HELP x_up Whether it runs.\n# TYPE x_up gauge\nx_up 0\n# EOF\n"
        );
        let older = text(Format::Prometheus);
        assert!(older.contains("# TYPE x_cpu_seconds_total counter\nx_cpu_seconds_total{"), "{older}");
        assert!(older.contains("# TYPE x_info gauge\nx_info{"), "{older}");
        assert!(!older.contains("# UNIT") && !older.contains("# EOF"), "{older}");
    }
}
