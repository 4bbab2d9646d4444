//! What an HTML part shows, and what it hides: visible text, links with their text, images, forms,
//! and text that nobody can see.
//!
//! Reads tokens, builds no tree: a stack of open elements carries what children inherit, and is
//! bounded. Style sheets are not read and nothing is fetched. Broken HTML is no error; it is read
//! as browsers tokenize it.

mod style;

use html5gum::{DefaultEmitter, Token, Tokenizer};

use crate::charset::cut;
use crate::limits::{Limits, Reached};
use style::{Ground, Style};

/// What was found in one HTML part.
#[derive(Debug, Clone, Default)]
pub struct Html {
    /// The text that is shown, a line a block.
    pub text: String,
    /// Links, in order.
    pub anchors: Vec<Anchor>,
    /// Images, in order.
    pub images: Vec<Image>,
    /// Where forms are sent to; empty for forms without a target.
    pub forms: Vec<String>,
    /// Elements with text that is not shown.
    pub invisible_blocks: usize,
    /// Elements with text in letters of no size.
    pub zero_font_blocks: usize,
    /// Characters of text in the colour of its ground.
    pub lost_characters: usize,
    /// The first such pair of colours.
    pub lost_example: Option<String>,
    /// Whether a `<meta>` sends the reader elsewhere.
    pub meta_refresh: bool,
    /// Whether it has a style sheet of another place.
    pub external_css: bool,
    /// Whether it has a script.
    pub script: bool,
    /// Content types of `data:` addresses.
    pub data_types: Vec<String>,
}

/// A link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Anchor {
    /// Where it leads, as written.
    pub href: String,
    /// What is shown for it.
    pub text: String,
}

/// An image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Whether it comes with the message (`cid:` or `data:`).
    pub embedded: bool,
    /// Whether it is within a link.
    pub linked: bool,
    /// In pixels; 0 where it is not said.
    pub width: u32,
    /// In pixels; 0 where it is not said.
    pub height: u32,
}

type StartTag = html5gum::StartTag<()>;
type EndTag = html5gum::EndTag<()>;

/// An open element.
struct Element {
    name: Vec<u8>,
    style: Style,
    /// Whether it is, or is in, one of [`NOT_SHOWN`].
    not_shown: bool,
    /// Whether its text was counted as hidden already.
    counted: bool,
}

struct Reader<'a> {
    limits: &'a Limits,
    reached: &'a mut Reached,
    html: Html,
    stack: Vec<Element>,
    anchor: Option<Anchor>,
    has_style_sheet: bool,
}

/// Reads an HTML part, whose size the caller has bounded.
#[must_use]
pub fn read(source: &str, limits: &Limits, reached: &mut Reached) -> Html {
    let mut reader = Reader {
        limits,
        reached,
        html: Html::default(),
        stack: Vec::new(),
        anchor: None,
        has_style_sheet: false,
    };
    let mut emitter = DefaultEmitter::default();
    // Without this the text of scripts and style sheets would be read as the page's.
    emitter.naively_switch_states(true);
    for token in Tokenizer::new_with_emitter(source, emitter) {
        let Ok(token) = token;
        match token {
            Token::StartTag(tag) => reader.start(&tag),
            Token::EndTag(tag) => reader.end(&tag),
            Token::String(text) => reader.text(&String::from_utf8_lossy(&text)),
            Token::Comment(_) | Token::Doctype(_) | Token::Error(_) => {}
        }
    }
    reader.close_anchor();
    reader.html
}

/// Elements that have no content, and so no end.
const VOID: [&[u8]; 14] = [
    b"area", b"base", b"br", b"col", b"embed", b"hr", b"img", b"input", b"link", b"meta", b"param",
    b"source", b"track", b"wbr",
];
/// Elements whose text is not part of the page.
const NOT_SHOWN: [&[u8]; 5] = [b"script", b"style", b"title", b"head", b"template"];
/// Elements within a line.
const INLINE: [&[u8]; 16] = [
    b"a", b"abbr", b"b", b"big", b"code", b"em", b"font", b"i", b"img", b"s", b"small", b"span",
    b"strong", b"sub", b"sup", b"u",
];

/// Open elements that are looked through for the one that an end tag closes.
const END_SEARCH_MAX: usize = 64;

/// An attribute as text; empty where there is none.
fn attribute(tag: &StartTag, name: &str) -> String {
    tag.attributes
        .get(name.as_bytes())
        .map(|value| String::from_utf8_lossy(value).into_owned())
        .unwrap_or_default()
}

impl Reader<'_> {
    fn start(&mut self, tag: &StartTag) {
        let name = &tag.name[..];
        if !INLINE.contains(&name) {
            self.break_line();
        }
        match name {
            b"a" | b"area" => self.open_anchor(tag),
            b"img" => self.image(tag),
            b"form" if self.html.forms.len() < self.limits.links => {
                self.html.forms.push(attribute(tag, "action"));
            }
            b"meta" => self.meta(tag),
            b"link" => {
                let href = attribute(tag, "href").to_ascii_lowercase();
                let path = href.split(['?', '#']).next().unwrap_or_default();
                self.html.external_css |= path.ends_with(".css");
            }
            b"script" => self.html.script = true,
            b"style" => self.has_style_sheet = true,
            _ => {}
        }
        for name in ["href", "src", "action", "background"] {
            self.data_type(&attribute(tag, name));
        }
        if !VOID.contains(&name) {
            self.push(tag);
        }
    }

    /// Opens an element that inherits its parent's style.
    fn push(&mut self, tag: &StartTag) {
        if self.stack.len() >= self.limits.html_depth {
            self.reached.note("html_depth");
            return;
        }
        let mut style = self.style();
        let not_shown = self.is_not_shown() || NOT_SHOWN.contains(&&tag.name[..]);
        let has = |name: &str| tag.attributes.contains_key(name.as_bytes());
        style.hidden |= has("hidden");
        if has("background") || self.has_style_sheet && (has("class") || has("id")) {
            style.ground = Ground::Unknown;
        }
        if has("bgcolor") {
            style.apply_ground(&attribute(tag, "bgcolor"));
        }
        if has("color") {
            style.apply_color(&attribute(tag, "color"));
        }
        style.apply(&attribute(tag, "style"));
        self.stack.push(Element {
            name: tag.name.to_vec(),
            style,
            not_shown,
            counted: false,
        });
    }

    fn is_not_shown(&self) -> bool {
        self.stack.last().is_some_and(|element| element.not_shown)
    }

    fn style(&self) -> Style {
        self.stack
            .last()
            .map(|element| element.style)
            .unwrap_or_default()
    }

    fn end(&mut self, tag: &EndTag) {
        let name = &tag.name[..];
        if !INLINE.contains(&name) {
            self.break_line();
        }
        if name == b"a" {
            self.close_anchor();
        }
        // What is not among the innermost ones was never opened, or its end hardly matters.
        let mut innermost = self.stack.iter().rev().take(END_SEARCH_MAX);
        if let Some(above) = innermost.position(|element| element.name == name) {
            self.stack.truncate(self.stack.len() - above - 1);
        }
    }

    fn text(&mut self, text: &str) {
        let not_shown = self.is_not_shown();
        if not_shown || text.trim().is_empty() {
            if !not_shown && !self.html.text.ends_with(char::is_whitespace) {
                self.html.text.push(' ');
            }
            return;
        }
        let style = self.style();
        let first = self
            .stack
            .last_mut()
            .is_some_and(|element| !std::mem::replace(&mut element.counted, true));
        let lost = style.lost();
        self.html.invisible_blocks += usize::from(first && (style.hidden || lost.is_some()));
        self.html.zero_font_blocks += usize::from(first && style.zero_font && !style.hidden);
        if let Some((color, ground)) = lost.filter(|_| !style.hidden) {
            self.html.lost_characters += text.trim().chars().count();
            self.html
                .lost_example
                .get_or_insert_with(|| format!("{color} on {ground}"));
        }
        if style.hidden || style.zero_font || lost.is_some() {
            return;
        }
        self.html.text.push_str(text);
        if let Some(anchor) = &mut self.anchor {
            push_bounded(&mut anchor.text, text);
        }
    }

    fn break_line(&mut self) {
        if !self.html.text.is_empty() && !self.html.text.ends_with('\n') {
            self.html.text.push('\n');
        }
    }

    fn open_anchor(&mut self, tag: &StartTag) {
        self.close_anchor();
        let href = attribute(tag, "href").trim().to_owned();
        if !href.is_empty() {
            self.anchor = Some(Anchor {
                href,
                text: String::new(),
            });
        }
        if &tag.name[..] == b"area" {
            self.close_anchor();
        }
    }

    fn close_anchor(&mut self) {
        let Some(anchor) = self.anchor.take() else {
            return;
        };
        if self.html.anchors.len() >= self.limits.links {
            self.reached.note("links");
            return;
        }
        self.html.anchors.push(anchor);
    }

    fn image(&mut self, tag: &StartTag) {
        if self.html.images.len() >= self.limits.links {
            self.reached.note("links");
            return;
        }
        let source = attribute(tag, "src").trim().to_ascii_lowercase();
        self.html.images.push(Image {
            embedded: source.starts_with("cid:") || source.starts_with("data:"),
            linked: self.anchor.is_some(),
            width: pixels(&attribute(tag, "width")),
            height: pixels(&attribute(tag, "height")),
        });
    }

    fn meta(&mut self, tag: &StartTag) {
        let refresh = attribute(tag, "http-equiv").eq_ignore_ascii_case("refresh");
        let content = attribute(tag, "content").to_ascii_lowercase();
        self.html.meta_refresh |= refresh && content.contains("url=");
    }

    /// Notes the content type of a `data:` address (RFC 2397).
    fn data_type(&mut self, address: &str) {
        let address = address.trim_start();
        let scheme = address.get(..5).unwrap_or_default();
        if !scheme.eq_ignore_ascii_case("data:") || self.html.data_types.len() >= self.limits.links
        {
            return;
        }
        let kind = address.get(5..).unwrap_or_default();
        let kind: String = kind
            .chars()
            .take_while(|c| !matches!(c, ';' | ','))
            .take(64)
            .collect();
        self.html.data_types.push(kind.to_ascii_lowercase());
    }
}

/// Adds to the text of a link, of which no more is needed than this.
fn push_bounded(text: &mut String, more: &str) {
    const TEXT_MAX: usize = 1024;
    let room = TEXT_MAX.saturating_sub(text.len());
    text.push_str(cut(more, room));
}

/// The number at the start of a size.
fn pixels(value: &str) -> u32 {
    let value = value.trim();
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    value
        .get(..digits.min(6))
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn html(source: &str) -> Html {
        read(source, &Limits::default(), &mut Reached::default())
    }

    #[test]
    fn shows_text() {
        for (source, text) in [
            ("<p>one <b>two</b></p>three<br>four", "one two\nthree\nfour"),
            ("<style>p{}</style><script>x<y</script>a&amp;b", "a&b"),
            ("<head><title>t</title></head><body>b", "b"),
            (
                "<span style='display:none'>hidden<b>too</b></span>seen",
                "seen",
            ),
            ("plain", "plain"),
            ("<a></b></a>x</p>", "x\n"),
        ] {
            assert_eq!(html(source).text, text, "{source}");
        }
    }

    #[test]
    fn finds_links() {
        let found = html("<a href=' http://a/ '>go <b>now</b></a><a name=x>y</a><a href=b>c");
        let anchor = |href: &str, text: &str| Anchor {
            href: href.to_owned(),
            text: text.to_owned(),
        };
        assert_eq!(
            found.anchors,
            [anchor("http://a/", "go now"), anchor("b", "c")]
        );
    }

    #[test]
    fn finds_images_and_forms() {
        let found = html(
            "<a href=x><img src=cid:1 width=300px height=200></a><img src=http://x/>\
             <form action=y>",
        );
        assert_eq!(
            found.images,
            [
                Image {
                    embedded: true,
                    linked: true,
                    width: 300,
                    height: 200
                },
                Image::default()
            ]
        );
        assert_eq!(found.forms, ["y"]);
    }

    #[test]
    fn counts_what_is_hidden() {
        let found = html(
            "<div style='font-size:0'>a<p>b</p></div>\
             <div hidden>c</div><p style='color:#fff'>lost</p>",
        );
        assert_eq!((found.zero_font_blocks, found.invisible_blocks), (2, 2));
        assert_eq!(found.lost_characters, 4);
        assert_eq!(found.lost_example.as_deref(), Some("#ffffff on #ffffff"));
    }

    #[test]
    fn a_class_may_set_the_ground() {
        let white = "<p style='color:white'>x</p>";
        let css = format!("<style>.a{{background:red}}</style><div class=a>{white}</div>");
        assert_eq!(html(&css).lost_characters, 0);
        assert_eq!(
            html(&format!("<div class=a>{white}</div>")).lost_characters,
            1
        );
    }

    #[test]
    fn sees_the_head() {
        let found = html(
            "<meta http-equiv=Refresh content='0; URL=http://x'><link href='http://x/a.css?1'>\
             <img src='data:text/html;base64,xx'>",
        );
        assert!(found.meta_refresh && found.external_css && !found.script);
        assert_eq!(found.data_types, ["text/html"]);
    }

    #[test]
    fn depth_and_links_have_limits() {
        let mut reached = Reached::default();
        let limits = Limits::default();
        let deep = "<div>".repeat(10_000) + &"<a href=x>y</a>".repeat(5_000);
        let found = read(&deep, &limits, &mut reached);
        assert_eq!(found.anchors.len(), limits.links);
        assert_eq!(reached.names(), ["html_depth", "links"]);
    }
}
