//! A strict reader of metrics, in the text format of Prometheus and in that of OpenMetrics.
//!
//! It accepts less than Prometheus does: every family is declared and comes once, its samples stand
//! together, no series comes twice, histograms are complete, cumulative and end with their count,
//! and with OpenMetrics there is an end. What it does not accept is a sentence with the line.

use std::collections::{BTreeMap, BTreeSet};

/// A family of metrics, as it was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metric {
    /// Its name, as it is declared.
    pub name: String,
    /// `counter`, `gauge`, `histogram` or `info`.
    pub kind: String,
    /// What it says it is.
    pub help: String,
    /// Its samples.
    pub samples: Vec<Sample>,
}

/// One number.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its name: that of the family with `_bucket` or the like, or without.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The number.
    pub value: f64,
}

impl Sample {
    /// Whether it has all of these labels.
    #[must_use]
    pub fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels
            .iter()
            .all(|(name, value)| self.labels.get(*name).is_some_and(|is| is == value))
    }
}

/// The sum of all samples of that name with these labels; `None` when there is none.
#[must_use]
pub fn value(metrics: &[Metric], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let samples = metrics.iter().flat_map(|metric| &metric.samples);
    let found = samples.filter(|sample| sample.name == name && sample.has(labels));
    found
        .map(|sample| sample.value)
        .fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

/// Reads a page.
///
/// # Errors
/// The first line that is not as it should be, and why.
pub fn read(text: &str, open_metrics: bool) -> Result<Vec<Metric>, String> {
    let mut reader = Reader {
        open_metrics,
        metrics: Vec::new(),
        names: BTreeSet::new(),
        series: BTreeSet::new(),
        ended: false,
    };
    if !text.ends_with('\n') {
        return Err("the last line is not ended".to_owned());
    }
    for (number, line) in text.lines().enumerate() {
        let read = reader.line(line);
        read.map_err(|error| format!("line {}: {error}: {line}", number + 1))?;
    }
    if open_metrics && !reader.ended {
        return Err("no # EOF".to_owned());
    }
    reader.metrics.iter().try_for_each(check_histogram)?;
    Ok(reader.metrics)
}

struct Reader {
    open_metrics: bool,
    metrics: Vec<Metric>,
    names: BTreeSet<String>,
    series: BTreeSet<String>,
    ended: bool,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if self.ended {
            return Err("something behind # EOF".to_owned());
        }
        if line == "# EOF" && self.open_metrics {
            self.ended = true;
            return Ok(());
        }
        let Some(declaration) = line.strip_prefix("# ") else {
            return self.sample(line);
        };
        let mut words = declaration.splitn(3, ' ');
        let (what, name, rest) = (words.next(), words.next(), words.next());
        let (Some(what), Some(name), Some(rest)) = (what, name, rest) else {
            return Err("not a declaration".to_owned());
        };
        check_name(name)?;
        match what {
            "HELP" => {
                if !self.names.insert(name.to_owned()) {
                    return Err("a family for the second time".to_owned());
                }
                self.metrics.push(Metric {
                    name: name.to_owned(),
                    help: rest.to_owned(),
                    ..Metric::default()
                });
                Ok(())
            }
            "TYPE" => self.kind(name, rest),
            "UNIT" if self.open_metrics => {
                let _ = self.latest(name)?;
                match name.ends_with(&format!("_{rest}")) {
                    true => Ok(()),
                    false => Err("a name without its unit".to_owned()),
                }
            }
            _ => Err("an unknown declaration".to_owned()),
        }
    }

    fn latest(&mut self, name: &str) -> Result<&mut Metric, String> {
        let latest = self.metrics.last_mut().filter(|metric| metric.name == name);
        latest
            .filter(|metric| metric.samples.is_empty())
            .ok_or_else(|| "not about the family that has just begun".to_owned())
    }

    fn kind(&mut self, name: &str, kind: &str) -> Result<(), String> {
        let open = self.open_metrics;
        let metric = self.latest(name)?;
        let total = name.ends_with("_total");
        match kind {
            "counter" if total == open => Err("_total is wrong here".to_owned()),
            "gauge" | "histogram" if total => Err("_total is for counters".to_owned()),
            "info" if !open => Err("no such type".to_owned()),
            "info" if name.ends_with("_info") => Err("_info belongs to the sample".to_owned()),
            "counter" | "gauge" | "histogram" | "info" => {
                kind.clone_into(&mut metric.kind);
                Ok(())
            }
            _ => Err("no such type".to_owned()),
        }
    }

    fn sample(&mut self, line: &str) -> Result<(), String> {
        let (name, rest) = line.split_at(line.find(['{', ' ']).ok_or("no value")?);
        let (labels, value) = labels(rest)?;
        if !self.series.insert(format!("{name}{labels:?}")) {
            return Err("a series for the second time".to_owned());
        }
        let value = value.strip_prefix(' ').ok_or("no space before the value")?;
        let number: f64 = match value {
            "+Inf" => f64::INFINITY,
            other if other.contains(char::is_alphabetic) && !other.contains('e') => {
                return Err("no number".to_owned());
            }
            other => other.parse().map_err(|_| "no number")?,
        };
        let open = self.open_metrics;
        let metric = self.metrics.last_mut().ok_or("nothing is declared")?;
        let suffix = name.strip_prefix(metric.name.as_str());
        let fits = match (metric.kind.as_str(), suffix.ok_or("of another family")?) {
            ("counter", suffix) => number >= 0.0 && (suffix == "_total") == open,
            ("gauge", suffix) => suffix.is_empty() && !labels.contains_key("le"),
            ("info", suffix) => suffix == "_info" && value == "1",
            ("histogram", "_bucket") => labels.contains_key("le"),
            ("histogram", suffix) => ["_sum", "_count"].contains(&suffix),
            _ => false,
        };
        if !fits {
            return Err(format!("not a sample of a {}", metric.kind));
        }
        metric.samples.push(Sample {
            name: name.to_owned(),
            labels,
            value: number,
        });
        Ok(())
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let begins = name.starts_with(|first: char| first.is_ascii_lowercase());
    let letters = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    match begins && name.chars().all(|letter| letters(letter) || letter == '_') {
        true => Ok(()),
        false => Err(format!("{name:?} is no name")),
    }
}

/// Labels in braces, and what follows them.
fn labels(text: &str) -> Result<(BTreeMap<String, String>, &str), String> {
    let mut labels = BTreeMap::new();
    let Some(mut rest) = text.strip_prefix('{') else {
        return Ok((labels, text));
    };
    loop {
        let (name, quoted) = rest.split_once("=\"").ok_or("no value of a label")?;
        check_name(name)?;
        let mut value = String::new();
        let mut letters = quoted.char_indices();
        let end = loop {
            match letters.next().ok_or("a value without an end")? {
                (at, '"') => break at,
                (_, '\\') => match letters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, letter @ ('\\' | '"'))) => value.push(letter),
                    _ => return Err("no such escape".to_owned()),
                },
                (_, letter) => value.push(letter),
            }
        };
        if labels.insert(name.to_owned(), value).is_some() {
            return Err("a label twice".to_owned());
        }
        rest = &quoted[end + 1..];
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((labels, after));
        }
        rest = rest.strip_prefix(',').ok_or("neither , nor }")?;
    }
}

/// Buckets of each series: ascending, cumulative, complete.
fn check_histogram(metric: &Metric) -> Result<(), String> {
    if metric.kind != "histogram" {
        return Ok(());
    }
    let mut series: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for sample in &metric.samples {
        let mut labels = sample.labels.clone();
        let bound = labels.remove("le");
        let buckets = series.entry(format!("{labels:?}")).or_default();
        let bound = match (sample.name.strip_prefix(&metric.name), bound.as_deref()) {
            (Some("_bucket"), Some("+Inf")) => f64::INFINITY,
            (Some("_bucket"), Some(bound)) => bound.parse().map_err(|_| "a bound is no number")?,
            (Some("_count"), None) if buckets.last().is_some_and(|last| last.0.is_infinite()) => {
                match buckets.last() {
                    Some((_, count)) if *count == sample.value => continue,
                    _ => return Err(format!("{}: count is not the last bucket", metric.name)),
                }
            }
            (Some("_sum"), None) if sample.value >= 0.0 => continue,
            _ => return Err(format!("{}: {sample:?} is out of place", metric.name)),
        };
        if buckets
            .last()
            .is_some_and(|(below, count)| *below >= bound || *count > sample.value)
        {
            return Err(format!("{}: buckets do not ascend", metric.name));
        }
        buckets.push((bound, sample.value));
    }
    match series
        .values()
        .all(|buckets| buckets.last().is_some_and(|last| last.0.is_infinite()))
    {
        true => Ok(()),
        false => Err(format!("{}: no bucket +Inf", metric.name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
# HELP a_total A.
# TYPE a_total counter
a_total{x=\"1\"} 1
a_total{x=\"2\"} 2
# HELP h H.
# TYPE h histogram
h_bucket{le=\"1.0\"} 1
h_bucket{le=\"+Inf\"} 2
h_sum 3.5
h_count 2
";

    #[test]
    fn what_is_good_is_read() {
        let metrics = read(GOOD, false).unwrap();
        assert_eq!(value(&metrics, "a_total", &[]), Some(3.0));
        assert_eq!(value(&metrics, "a_total", &[("x", "2")]), Some(2.0));
        assert_eq!(value(&metrics, "b_total", &[]), None);
    }

    #[test]
    fn what_is_not_good_is_refused() {
        for (from, to) in [
            ("# HELP h H.\n", ""),
            ("# TYPE h histogram\n", ""),
            ("x=\"2\"", "x=\"1\""),
            ("x=\"2\"", "x=\"2"),
            ("x=\"2\"", "x=\"\\2\""),
            ("a_total{x=\"2\"} 2", "b_total 2"),
            ("a_total{x=\"2\"} 2", "a_total{x=\"2\"} -2"),
            ("a_total{x=\"2\"} 2", "a_total{x=\"2\"} nothing"),
            ("h_count 2", "h_count 1"),
            ("h_bucket{le=\"+Inf\"} 2\n", ""),
            ("le=\"1.0\"} 1", "le=\"1.0\"} 5"),
            ("# HELP h H.", "# HELP a_total A."),
            ("h_sum 3.5", "a_total 1"),
            ("h_count 2\n", "h_count 2"),
        ] {
            let bad = GOOD.replacen(from, to, 1);
            assert_ne!(bad, GOOD, "{from}");
            assert!(read(&bad, false).is_err(), "{bad}");
        }
        assert!(read(GOOD, true).is_err(), "no end, and _total is wrong");
    }
}
