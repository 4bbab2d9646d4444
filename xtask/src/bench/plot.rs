//! The figures as a picture: for each of them what is judged, for us and for the relay, as a share
//! of the limit, which is a line.

use std::fmt::Write as _;

use super::figures::{Figure, Limit};

/// Pixels.
const ROW: usize = 44;
const LEFT: usize = 420;
const WIDTH: usize = 460;
/// A bar that is longer than so many limits is cut.
const MOST: f64 = 2.0;

/// An SVG document.
pub(crate) fn svg(figures: &[Figure]) -> String {
    let judged: Vec<(&Figure, f64)> = figures
        .iter()
        .filter_map(|figure| match figure.limit? {
            Limit::AtMost(limit) | Limit::AtLeast(limit) => Some((figure, limit)),
        })
        .collect();
    let height = (judged.len() + 2) * ROW;
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{}" height="{height}"
 font-family="sans-serif" font-size="13">
<rect width="100%" height="100%" fill="#fff"/>
<text x="10" y="24">share of the limit: <tspan fill="#2a6fb0">ours</tspan>,
<tspan fill="#999">a bare relay</tspan>; wanted: left of the line, or right of it
where it says ≥</text>"##,
        LEFT + WIDTH + 90,
    );
    for (row, (figure, limit)) in judged.iter().enumerate() {
        let _ = out.write_str(&bars(figure, *limit, (row + 1) * ROW));
    }
    let line = LEFT + share(1.0);
    let _ = writeln!(
        out,
        r##"<line x1="{line}" y1="{ROW}" x2="{line}" y2="{height}"
 stroke="#c33" stroke-dasharray="4 3"/>
</svg>"##
    );
    out
}

/// One row.
fn bars(figure: &Figure, limit: f64, top: usize) -> String {
    let sign = match figure.limit {
        Some(Limit::AtLeast(_)) => "≥",
        Some(Limit::AtMost(_)) | None => "≤",
    };
    let ours = figure.judged() / limit;
    let color = if figure.is_beyond() {
        "#c33"
    } else {
        "#2a6fb0"
    };
    let mut out = format!(
        r##"<text x="10" y="{text}">{} {sign}</text>
<rect x="{LEFT}" y="{top}" width="{}" height="14" fill="{color}"/>
<text x="{}" y="{}">{ours:.2}</text>
"##,
        escape(&figure.what),
        share(ours),
        LEFT + share(ours) + 6,
        top + 12,
        text = top + 16,
    );
    if let Some(relay) = figure.judged_relay() {
        let _ = writeln!(
            out,
            r##"<rect x="{LEFT}" y="{}" width="{}" height="8" fill="#999"/>"##,
            top + 16,
            share(relay / limit),
        );
    }
    out
}

/// Pixels for a share of the limit.
fn share(of_limit: f64) -> usize {
    let part = (of_limit / MOST).clamp(0.0, 1.0);
    // Between 0 and the width.
    (part * WIDTH as f64) as usize
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::super::figures::{Against, Round};
    use super::*;

    #[test]
    fn every_judged_figure_has_a_bar_and_none_leaves_the_picture() {
        let figure = |what: &str, limit| Figure {
            what: what.to_owned(),
            unit: "ms",
            rounds: vec![Round::alone(50.0)],
            against: Against::Nothing,
            limit,
        };
        let figures = [
            figure("a < b", Some(Limit::AtMost(100.0))),
            figure("far", Some(Limit::AtMost(1.0))),
            figure("shown", None),
        ];
        let svg = svg(&figures);
        assert!(svg.contains("a &lt; b"), "{svg}");
        assert!(svg.contains(r#"width="115" height="14""#), "{svg}");
        assert!(
            svg.contains(r##"width="460" height="14" fill="#c33""##),
            "{svg}"
        );
        assert!(!svg.contains("shown"), "{svg}");
        assert!(svg.trim_end().ends_with("</svg>"));
    }
}
