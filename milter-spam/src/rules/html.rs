//! Checks on HTML parts: what they hide, and pictures in place of text.

use super::{Group, Hit, Rule};
use crate::facts::Facts;
use crate::html::{Html, Image};

/// See [`super::TABLE`].
pub(super) const TABLE: &[Rule] = &[
    Rule::body(
        "R_WHITE_ON_WHITE",
        "Text in the colour of its ground",
        Group::Html,
        4.0,
        lost_text,
    ),
    Rule::body(
        "ZERO_FONT",
        "Text in letters of no size",
        Group::Html,
        1.0,
        zero_font,
    ),
    Rule::body(
        "MANY_INVISIBLE_PARTS",
        "Text that is not shown",
        Group::Html,
        1.0,
        invisible,
    ),
    Rule::body(
        "HTML_SHORT_LINK_IMG_1",
        "HTML of less than 1K with a linked image",
        Group::Html,
        2.0,
        |facts| short_with_image(facts, 0, 1024),
    ),
    Rule::body(
        "HTML_SHORT_LINK_IMG_2",
        "HTML of 1K to 1.5K with a linked image",
        Group::Html,
        1.0,
        |facts| short_with_image(facts, 1024, 1536),
    ),
    Rule::body(
        "HTML_SHORT_LINK_IMG_3",
        "HTML of 1.5K to 2K with a linked image",
        Group::Html,
        0.5,
        |facts| short_with_image(facts, 1536, 2048),
    ),
    Rule::body(
        "R_EMPTY_IMAGE",
        "A large image and no text",
        Group::Html,
        2.0,
        image_without_text,
    ),
    Rule::body(
        "R_SUSPICIOUS_IMAGES",
        "More linked images than text",
        Group::Html,
        5.0,
        more_images_than_text,
    ),
    Rule::body(
        "EXT_CSS",
        "HTML with a style sheet of another place",
        Group::Html,
        1.0,
        |facts| any(facts, |html| html.external_css),
    ),
    Rule::body(
        "HTML_META_REFRESH_URL",
        "HTML that sends the reader elsewhere",
        Group::Html,
        5.0,
        |facts| any(facts, |html| html.meta_refresh),
    ),
    Rule::body(
        "HAS_DATA_URI",
        "HTML with a data: address",
        Group::Html,
        0.0,
        data_address,
    ),
    Rule::body(
        "DATA_URI_OBFU",
        "HTML that hides text in a data: address",
        Group::Html,
        2.0,
        data_text,
    ),
    Rule::body("HTML_FORM", "HTML with a form", Group::Html, 0.5, |facts| {
        any(facts, |html| !html.forms.is_empty())
    }),
    Rule::body(
        "HTML_SCRIPT_ATTACHED",
        "Attached HTML with a script",
        Group::Html,
        2.0,
        attached_script,
    ),
];

fn pages(facts: &Facts) -> impl Iterator<Item = &Html> {
    facts.shown_pages().map(|page| &page.html)
}

/// In any HTML part, attached ones included.
fn any(facts: &Facts, what: impl Fn(&Html) -> bool) -> Option<Hit> {
    Hit::when(facts.pages.iter().any(|page| what(&page.html)))
}

/// Grows to the full weight where half of the text is lost; a tenth is no sign.
fn lost_text(facts: &Facts) -> Option<Hit> {
    let lost: usize = pages(facts).map(|html| html.lost_characters).sum();
    let shown: usize = pages(facts).map(|html| html.text.len()).sum();
    let rate = lost as f64 / (lost + shown).max(1) as f64;
    let example = pages(facts).find_map(|html| html.lost_example.clone());
    (rate > 0.1).then(|| {
        Hit::new()
            .times((rate * 2.0).min(1.0))
            .with(example.unwrap_or_default())
    })
}

fn zero_font(facts: &Facts) -> Option<Hit> {
    const SURE: [f64; 6] = [0.1, 0.2, 0.2, 0.3, 0.5, 1.0];
    let blocks: usize = pages(facts).map(|html| html.zero_font_blocks).sum();
    graded(blocks, &SURE)
}

fn invisible(facts: &Facts) -> Option<Hit> {
    const SURE: [f64; 10] = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0];
    let blocks: usize = pages(facts).map(|html| html.invisible_blocks).sum();
    graded(blocks, &SURE)
}

/// A hit that is the surer the more there is.
fn graded(number: usize, sure: &[f64]) -> Option<Hit> {
    let step = number.checked_sub(1)?;
    let factor = sure.get(step).or_else(|| sure.last())?;
    Some(Hit::new().times(*factor).with(number.to_string()))
}

/// A linked image that comes with the message and is not just an icon.
fn short_with_image(facts: &Facts, least: usize, most: usize) -> Option<Hit> {
    let picture =
        |image: &Image| image.linked && image.embedded && image.width + image.height >= 210;
    Hit::when(
        pages(facts).any(|html| {
            (least..most).contains(&html.text.len()) && html.images.iter().any(picture)
        }),
    )
}

fn image_without_text(facts: &Facts) -> Option<Hit> {
    let large = |image: &Image| !image.linked && image.width + image.height >= 400;
    Hit::when(pages(facts).any(|html| html.text.trim().len() < 50 && html.images.iter().any(large)))
}

/// A picture of 100 by 200 counts as three words.
fn more_images_than_text(facts: &Facts) -> Option<Hit> {
    pages(facts).find_map(|html| {
        let pictures: u32 = html
            .images
            .iter()
            .filter(|image| image.linked)
            .map(|image| image.width + image.height)
            .filter(|size| (101..3000).contains(size))
            .sum();
        let pictures = f64::from(pictures) / 100.0;
        let words = html.text.split_whitespace().count() as f64;
        let rate = pictures / (words + pictures).max(1.0);
        (rate > 0.5).then(|| Hit::new().times((rate - 0.5) * 2.0))
    })
}

fn data_address(facts: &Facts) -> Option<Hit> {
    any(facts, |html| !html.data_types.is_empty())
}

fn data_text(facts: &Facts) -> Option<Hit> {
    any(facts, |html| {
        let mut types = html.data_types.iter();
        types.any(|kind| matches!(&kind[..], "text/html" | "text/plain"))
    })
}

fn attached_script(facts: &Facts) -> Option<Hit> {
    Hit::when(facts.pages.iter().any(|page| {
        let attached = facts
            .parts
            .get(page.part)
            .is_some_and(|part| part.is_attachment());
        attached && page.html.script
    }))
}
