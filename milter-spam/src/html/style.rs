//! Inline CSS and presentational attributes, as far as they hide text.
//!
//! Knows `display`, `visibility`, `opacity`, `font-size`, sizes of boxes that cut their content,
//! and colours. What it does not understand hides nothing; style sheets are not read, so what a
//! class does is unknown, and said to be.

/// A colour, without transparency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Color {
    red: u8,
    green: u8,
    blue: u8,
}

impl Color {
    pub(crate) const WHITE: Self = Self::new(255, 255, 255);

    const fn new(red: u8, green: u8, blue: u8) -> Self {
        Self { red, green, blue }
    }

    /// Whether text of this colour cannot be read on `ground`.
    pub(crate) fn is_lost_on(self, ground: Self) -> bool {
        /// Sum of the differences of the three channels that an eye does not see as writing.
        const UNSEEN: u16 = 36;
        let difference = |a: u8, b: u8| u16::from(a.abs_diff(b));
        difference(self.red, ground.red)
            + difference(self.green, ground.green)
            + difference(self.blue, ground.blue)
            < UNSEEN
    }
}

impl std::fmt::Display for Color {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{:02x}{:02x}{:02x}", self.red, self.green, self.blue)
    }
}

/// What is behind the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Ground {
    /// Nothing was said: white.
    #[default]
    Unset,
    /// An image, a class, or something that was not understood.
    Unknown,
    /// This colour.
    Is(Color),
}

/// How an element is shown, as far as that is known; children inherit it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Style {
    /// Taken out of the page.
    pub(crate) hidden: bool,
    /// Letters of no size.
    pub(crate) zero_font: bool,
    /// Colour of the text.
    pub(crate) color: Option<Color>,
    /// Colour behind the text.
    pub(crate) ground: Ground,
}

impl Style {
    /// Takes in a `style` attribute.
    pub(crate) fn apply(&mut self, declarations: &str) {
        /// Declarations in one attribute that are read.
        const DECLARATIONS_MAX: usize = 64;
        let mut flat = false;
        let mut cut = false;
        for declaration in declarations.split(';').take(DECLARATIONS_MAX) {
            let Some((name, value)) = declaration.split_once(':') else {
                continue;
            };
            let name = name.trim().to_ascii_lowercase();
            let value = value.to_ascii_lowercase();
            let value = value.trim().trim_end_matches("!important").trim();
            match &name[..] {
                "display" => self.hidden |= value == "none",
                "visibility" => self.hidden |= value == "hidden",
                "opacity" => self.hidden |= value.parse().is_ok_and(|opacity: f32| opacity < 0.05),
                "font-size" => self.font_size(value),
                "max-height" | "height" => flat |= is_zero(value),
                "overflow" => cut |= value == "hidden",
                "color" => self.color = color(value).or(self.color),
                "background-color" => self.ground = ground(value),
                "background" if value != "none" => self.ground = ground(value),
                "background-image" if value != "none" => self.ground = Ground::Unknown,
                _ => {}
            }
        }
        self.hidden |= flat && cut;
    }

    fn font_size(&mut self, value: &str) {
        // A child that sets its own size is seen again, whatever its parent's is, unless it is
        // relative to that.
        let relative = value.ends_with('%') || value.ends_with("em") && !value.ends_with("rem");
        self.zero_font = is_zero(value) || self.zero_font && relative;
    }

    /// Takes in the attributes `color` and `bgcolor` of old HTML.
    pub(crate) fn apply_color(&mut self, value: &str) {
        self.color = color(&value.trim().to_ascii_lowercase()).or(self.color);
    }

    /// See [`Self::apply_color`].
    pub(crate) fn apply_ground(&mut self, value: &str) {
        self.ground = ground(&value.trim().to_ascii_lowercase());
    }

    /// The colours, where text would not be seen for them.
    pub(crate) fn lost(self) -> Option<(Color, Color)> {
        let ground = match self.ground {
            Ground::Unset => Color::WHITE,
            Ground::Is(color) => color,
            Ground::Unknown => return None,
        };
        self.color
            .filter(|color| color.is_lost_on(ground))
            .map(|color| (color, ground))
    }
}

/// Whether a length is nothing, or next to it.
fn is_zero(value: &str) -> bool {
    let digits = value
        .bytes()
        .take_while(|byte| byte.is_ascii_digit() || *byte == b'.')
        .count();
    let (number, unit) = value.split_at(digits);
    let nothing = number.parse().is_ok_and(|number: f32| {
        number == 0.0 || number < 1.5 && matches!(unit.trim(), "px" | "pt" | "%")
    });
    nothing && unit.len() <= 4
}

fn ground(value: &str) -> Ground {
    match value {
        "transparent" | "inherit" | "initial" | "unset" => Ground::Unset,
        _ => value
            .split_ascii_whitespace()
            .find_map(color)
            .filter(|_| !value.contains("url("))
            .map_or(Ground::Unknown, Ground::Is),
    }
}

/// `#rgb`, `#rrggbb`, `rgb(r, g, b)`, or one of the names that hide text.
fn color(value: &str) -> Option<Color> {
    if let Some(digits) = value.strip_prefix('#') {
        return hexadecimal(digits);
    }
    if let Some(inner) = value.strip_prefix("rgb(") {
        return triple(inner.trim_end_matches(')'));
    }
    match value {
        "white" => Some(Color::WHITE),
        "black" => Some(Color::new(0, 0, 0)),
        "snow" => Some(Color::new(255, 250, 250)),
        "ivory" => Some(Color::new(255, 255, 240)),
        "whitesmoke" => Some(Color::new(245, 245, 245)),
        "ghostwhite" => Some(Color::new(248, 248, 255)),
        "floralwhite" => Some(Color::new(255, 250, 240)),
        "red" => Some(Color::new(255, 0, 0)),
        "green" => Some(Color::new(0, 128, 0)),
        "blue" => Some(Color::new(0, 0, 255)),
        "yellow" => Some(Color::new(255, 255, 0)),
        "gray" | "grey" => Some(Color::new(128, 128, 128)),
        "silver" => Some(Color::new(192, 192, 192)),
        _ if value.len() == 6 => hexadecimal(value),
        _ => None,
    }
}

fn hexadecimal(digits: &str) -> Option<Color> {
    let number = u32::from_str_radix(digits, 16).ok()?;
    let byte = |shift: u32| ((number >> shift) & 0xff) as u8;
    let nibble = |shift: u32| ((number >> shift) & 0xf) as u8 * 17;
    match digits.len() {
        6 => Some(Color::new(byte(16), byte(8), byte(0))),
        3 => Some(Color::new(nibble(8), nibble(4), nibble(0))),
        _ => None,
    }
}

fn triple(inner: &str) -> Option<Color> {
    let mut channels = inner.split(',').map(|channel| channel.trim().parse().ok());
    match (channels.next(), channels.next(), channels.next()) {
        (Some(red), Some(green), Some(blue)) => Some(Color::new(red?, green?, blue?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn style(declarations: &str) -> Style {
        let mut style = Style::default();
        style.apply(declarations);
        style
    }

    #[test]
    fn knows_what_hides() {
        for hides in [
            "display:none",
            "Display : NONE !important",
            "x;visibility:hidden",
            "opacity:0",
            "max-height:0px;overflow:hidden",
        ] {
            assert!(style(hides).hidden, "{hides}");
        }
        for shows in [
            "display:block",
            "opacity:.9",
            "max-height:0",
            "height:10px;overflow:hidden",
            "",
        ] {
            assert!(!style(shows).hidden, "{shows}");
        }
    }

    #[test]
    fn knows_font_sizes() {
        for zero in [
            "font-size:0",
            "font-size: 0px",
            "font-size:1px",
            "font-size:0.0em",
        ] {
            assert!(style(zero).zero_font, "{zero}");
        }
        for shown in [
            "font-size:10px",
            "font-size:1em",
            "font-size:small",
            "font-size:0;font-size:12px",
        ] {
            assert!(!style(shown).zero_font, "{shown}");
        }
        assert!(style("font-size:0;font-size:100%").zero_font);
    }

    #[test]
    fn knows_colors() {
        for lost in [
            "color:#fff",
            "color:white;background:#FFFFFE none",
            "color:rgb(250,250,250)",
            "background-color:#000;color:black",
        ] {
            assert!(style(lost).lost().is_some(), "{lost}");
        }
        for seen in [
            "color:#000",
            "color:white;background:#00f",
            "color:white;background:url(x) white",
            "color:white;background-image:url(x)",
            "",
        ] {
            assert!(style(seen).lost().is_none(), "{seen}");
        }
    }
}
