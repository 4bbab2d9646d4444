//! What milter-spam believes, milter-dkim removes: both read an Authentication-Results field for
//! whose it is, and wherever they differ somebody outside could speak in our name.

use milter_dkim::auth::results::speaks_for;
use milter_spam::authentication::Authentication;

/// Pieces on which readers of structured fields come to differ.
const PIECES: [&str; 9] = ["(", ")", "\\)", "\\(", "\\\"", "\"", ";", " ", "x"];

/// All sequences of at most `length` pieces.
fn sequences(length: usize) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut longest = all.clone();
    for _ in 0..length {
        let longer = |start: &String| PIECES.map(|piece| format!("{start}{piece}"));
        longest = longest.iter().flat_map(longer).collect();
        all.extend_from_slice(&longest);
    }
    all
}

#[test]
fn a_field_that_milter_spam_believes_is_one_that_milter_dkim_removes() {
    let id = "mx.example.org";
    let trusted = [id.to_owned()];
    let (before, after) = (sequences(2), sequences(3));
    let mut believed = 0;
    for start in &before {
        for end in &after {
            let field = format!("{start}{id}; spf=pass {end}");
            let read = Authentication::read(std::iter::once(field.as_bytes()), &trusted);
            if read.with("spf", "pass").is_some() {
                believed += 1;
                assert!(speaks_for(field.as_bytes(), id), "{field:?}");
            }
        }
    }
    assert!(believed > 1000, "{believed}");
}
