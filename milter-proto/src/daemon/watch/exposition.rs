//! Numbers as Prometheus reads them: its own text format, or OpenMetrics 1.0.
//!
//! Whatever it is fed comes out well-formed: the samples of a family stand together, each family
//! comes once, values of labels are escaped. Names are not checked here but by a strict reader in
//! the tests.

use std::fmt::Write;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// Text format 0.0.4, which everything reads.
    Text,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Syntax {
    /// The media type.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A page of metrics in the making.
#[derive(Debug)]
pub struct Exposition {
    syntax: Syntax,
    text: String,
}

/// A number of a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// How many.
    Count(u64),
    /// How much: seconds, mostly.
    Real(f64),
}

impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<f64> for Value {
    fn from(real: f64) -> Self {
        Self::Real(real)
    }
}

impl From<bool> for Value {
    fn from(is: bool) -> Self {
        Self::Count(u64::from(is))
    }
}

/// Names and values of labels.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

/// One family, to which samples are added.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut String,
    /// Of its samples.
    name: String,
}

impl Exposition {
    /// An empty page.
    #[must_use]
    pub fn new(syntax: Syntax) -> Self {
        Self {
            syntax,
            text: String::new(),
        }
    }

    /// A number that only grows; `name` goes without the `_total` that its samples have.
    pub fn counter(&mut self, name: &str, help: &str) -> Family<'_> {
        let samples = format!("{name}_total");
        let declared = match self.syntax {
            Syntax::Text => &samples,
            Syntax::OpenMetrics => name,
        };
        self.declare(declared, "counter", help);
        Family {
            text: &mut self.text,
            name: samples,
        }
    }

    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, "gauge", help)
    }

    /// How often something took how long.
    pub fn histogram(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, "histogram", help)
    }

    /// What somebody is, in labels; `name` goes without the `_info` that its sample has.
    pub fn info(&mut self, name: &str, help: &str, labels: Labels<'_>) {
        let samples = format!("{name}_info");
        match self.syntax {
            Syntax::Text => self.declare(&samples, "gauge", help),
            Syntax::OpenMetrics => self.declare(name, "info", help),
        }
        let text = &mut self.text;
        Family {
            text,
            name: samples,
        }
        .sample(labels, 1);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) -> Family<'_> {
        self.declare(name, kind, help);
        Family {
            text: &mut self.text,
            name: name.to_owned(),
        }
    }

    fn declare(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}");
        let _ = writeln!(self.text, "# TYPE {name} {kind}");
        if self.syntax == Syntax::OpenMetrics {
            for unit in ["seconds", "bytes"] {
                if name.ends_with(&format!("_{unit}")) {
                    let _ = writeln!(self.text, "# UNIT {name} {unit}");
                }
            }
        }
    }

    /// The page.
    #[must_use]
    pub fn finish(mut self) -> String {
        if self.syntax == Syntax::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

impl Family<'_> {
    /// One number.
    pub fn sample(&mut self, labels: Labels<'_>, value: impl Into<Value>) -> &mut Self {
        self.line("", labels, None, value.into());
        self
    }

    /// A histogram: upper bounds in seconds, each with how many took no longer, then the sum in
    /// seconds and the number of all.
    pub fn buckets(
        &mut self,
        labels: Labels<'_>,
        buckets: &[(f64, u64)],
        sum: f64,
        count: u64,
    ) -> &mut Self {
        for (bound, within) in buckets {
            let bound = format!("{bound:?}");
            self.line("_bucket", labels, Some(&bound), (*within).into());
        }
        self.line("_bucket", labels, Some("+Inf"), count.into());
        self.line("_sum", labels, None, sum.into());
        self.line("_count", labels, None, count.into());
        self
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, le: Option<&str>, value: Value) {
        let text = &mut *self.text;
        text.push_str(&self.name);
        text.push_str(suffix);
        let mut between = '{';
        let le = le.map(|bound| ("le", bound));
        for (name, value) in labels.iter().copied().chain(le) {
            text.push(between);
            between = ',';
            text.push_str(name);
            text.push_str("=\"");
            for letter in value.chars() {
                match letter {
                    '\\' => text.push_str("\\\\"),
                    '"' => text.push_str("\\\""),
                    '\n' => text.push_str("\\n"),
                    other => text.push(other),
                }
            }
            text.push('"');
        }
        if between == ',' {
            text.push('}');
        }
        let _ = match value {
            Value::Count(count) => writeln!(text, " {count}"),
            Value::Real(real) => writeln!(text, " {real:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(syntax: Syntax) -> String {
        let mut page = Exposition::new(syntax);
        page.info("milter_build", "What runs.", &[("version", "1\"\\\n")]);
        let mut family = page.counter("milter_replays", "Told twice.");
        family.sample(&[("filter", "a")], 1).sample(&[], u64::MAX);
        let mut family = page.histogram("milter_seconds", "How long.");
        family.buckets(&[("filter", "a")], &[(0.001, 1), (1.0, 2)], 1.5, 3);
        page.gauge("milter_up", "Is it?").sample(&[], true);
        page.finish()
    }

    #[test]
    fn both_syntaxes() {
        let text = "\
# HELP milter_build_info What runs.
# TYPE milter_build_info gauge
milter_build_info{version=\"1\\\"\\\\\\n\"} 1
# HELP milter_replays_total Told twice.
# TYPE milter_replays_total counter
milter_replays_total{filter=\"a\"} 1
milter_replays_total 18446744073709551615
# HELP milter_seconds How long.
# TYPE milter_seconds histogram
milter_seconds_bucket{filter=\"a\",le=\"0.001\"} 1
milter_seconds_bucket{filter=\"a\",le=\"1.0\"} 2
milter_seconds_bucket{filter=\"a\",le=\"+Inf\"} 3
milter_seconds_sum{filter=\"a\"} 1.5
milter_seconds_count{filter=\"a\"} 3
# HELP milter_up Is it?
# TYPE milter_up gauge
milter_up 1
";
        assert_eq!(page(Syntax::Text), text);
        let open = text
            .replace("# HELP milter_build_info", "# HELP milter_build")
            .replace("# TYPE milter_build_info gauge", "# TYPE milter_build info")
            .replace("# HELP milter_replays_total", "# HELP milter_replays")
            .replace("# TYPE milter_replays_total", "# TYPE milter_replays")
            .replace(
                "seconds histogram\n",
                "seconds histogram\n# UNIT milter_seconds seconds\n",
            )
            + "# EOF\n";
        assert_eq!(page(Syntax::OpenMetrics), open);
    }
}
