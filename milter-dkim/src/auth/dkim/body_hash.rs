//! Hashes a body while it arrives: once for each distinct canonicalization and length, whatever the
//! number of signatures.
//!
//! First the hashes are asked for, then the body is pushed in any chunks, then
//! [`BodyHasher::finish`] gives a value to look them up in. Memory does not grow with the body, and
//! there are no failures.

use aws_lc_rs::digest::{Context, SHA256};

use super::canonical::{Body, Canonicalization};

/// A SHA-256 digest.
pub type Digest = [u8; 32];

/// Takes a body, yields its hashes.
#[derive(Default)]
pub struct BodyHasher {
    streams: Vec<Stream>,
}

/// One canonical form, and the hashes over it.
struct Stream {
    canonicalization: Canonicalization,
    body: Body,
    sums: Sums,
}

/// The hashes over one canonical form.
struct Sums {
    /// Octets seen.
    length: u64,
    lanes: Vec<Lane>,
}

/// One hash, over everything or over the first octets (`l=`).
struct Lane {
    limit: Option<u64>,
    context: Context,
}

impl BodyHasher {
    /// Asks for a hash over the canonical body, or over its first `limit` octets. To be called
    /// before the first chunk.
    pub fn request(&mut self, canonicalization: Canonicalization, limit: Option<u64>) {
        let position = self
            .streams
            .iter()
            .position(|stream| stream.canonicalization == canonicalization);
        let index = position.unwrap_or_else(|| {
            self.streams.push(Stream {
                canonicalization,
                body: Body::new(canonicalization),
                sums: Sums {
                    length: 0,
                    lanes: Vec::new(),
                },
            });
            self.streams.len() - 1
        });
        let Some(stream) = self.streams.get_mut(index) else {
            return;
        };
        if !stream.sums.lanes.iter().any(|lane| lane.limit == limit) {
            stream.sums.lanes.push(Lane {
                limit,
                context: Context::new(&SHA256),
            });
        }
    }

    /// Takes the next chunk of the body, split anywhere.
    pub fn push(&mut self, chunk: &[u8]) {
        for Stream { body, sums, .. } in &mut self.streams {
            body.push(chunk, &mut |run| sums.update(run));
        }
    }

    /// Whether the rest of the body changes nothing: no hash was asked for, or each has a limit
    /// that was passed.
    #[must_use]
    pub fn is_satisfied(&self) -> bool {
        self.streams.iter().all(|stream| {
            let sums = &stream.sums;
            let passed = |lane: &Lane| lane.limit.is_some_and(|limit| sums.length > limit);
            sums.lanes.iter().all(passed)
        })
    }

    /// The end of the body.
    #[must_use]
    pub fn finish(self) -> BodyHashes {
        let mut hashes = Vec::new();
        for stream in self.streams {
            let mut sums = stream.sums;
            stream.body.finish(&mut |run| sums.update(run));
            for lane in sums.lanes {
                let mut digest = Digest::default();
                digest.copy_from_slice(lane.context.finish().as_ref());
                hashes.push((
                    (stream.canonicalization, lane.limit),
                    BodyHash {
                        digest,
                        coverage: Coverage::of(lane.limit, sums.length),
                    },
                ));
            }
        }
        BodyHashes(hashes)
    }
}

impl Sums {
    /// Adds a run of the canonical form to every hash, up to its limit.
    fn update(&mut self, run: &[u8]) {
        for lane in &mut self.lanes {
            let left = lane
                .limit
                .map_or(u64::MAX, |limit| limit.saturating_sub(self.length));
            let length = usize::try_from(left).map_or(run.len(), |left| left.min(run.len()));
            if length > 0 {
                lane.context.update(&run[..length]);
            }
        }
        self.length += run.len() as u64;
    }
}

/// The hashes of a body, by what was asked for.
#[derive(Debug, Clone, Default)]
pub struct BodyHashes(Vec<((Canonicalization, Option<u64>), BodyHash)>);

/// One hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyHash {
    /// SHA-256 of the canonical body.
    pub digest: Digest,
    /// How much of the body it covers.
    pub coverage: Coverage,
}

/// How `l=` compares to the canonical length of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// The hash covers all of it.
    Whole,
    /// This many octets follow that no signature covers; at least that many, if the body was not
    /// read to its end.
    Part {
        /// Octets after the limit.
        uncovered: u64,
    },
    /// The body is shorter than the limit (RFC 6376 §3.5: the value must not exceed the length).
    TooShort,
}

impl Coverage {
    /// Compares a limit to a length.
    fn of(limit: Option<u64>, length: u64) -> Self {
        match limit {
            Some(limit) if length > limit => Self::Part {
                uncovered: length - limit,
            },
            Some(limit) if length < limit => Self::TooShort,
            _ => Self::Whole,
        }
    }
}

impl BodyHashes {
    /// The hash that was asked for with the same arguments.
    #[must_use]
    pub fn hash(&self, canonicalization: Canonicalization, limit: Option<u64>) -> Option<BodyHash> {
        let wanted = (canonicalization, limit);
        self.0
            .iter()
            .find(|(key, _)| *key == wanted)
            .map(|(_, hash)| *hash)
    }
}

#[cfg(test)]
mod tests {
    use super::Canonicalization::{Relaxed, Simple};
    use super::*;
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;

    fn hash(
        body: &str,
        chunk: usize,
        canonicalization: Canonicalization,
        limit: Option<u64>,
    ) -> (String, Coverage) {
        let mut hasher = BodyHasher::default();
        hasher.request(canonicalization, limit);
        hasher.request(canonicalization, limit);
        body.as_bytes()
            .chunks(chunk)
            .for_each(|chunk| hasher.push(chunk));
        let hash = hasher.finish().hash(canonicalization, limit).unwrap();
        (BASE64_STANDARD.encode(hash.digest), hash.coverage)
    }

    #[test]
    fn empty_bodies_hash_to_the_values_of_rfc_6376() {
        let (simple, _) = hash("", 1, Simple, None);
        assert_eq!(simple, "frcCV1k9oG9oKj3dpUqdJg1PxRT2RSN/XKdLCPjaYaY=");
        let (relaxed, _) = hash("", 1, Relaxed, None);
        assert_eq!(relaxed, "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }

    #[test]
    fn a_limit_counts_canonical_octets() {
        let (whole, coverage) = hash("a b\r\n", 2, Relaxed, None);
        assert_eq!(coverage, Coverage::Whole);
        let cases = [
            ("a  b\r\nmore", 5, &whole, Coverage::Part { uncovered: 6 }),
            ("a \t b\r\n\r\n", 5, &whole, Coverage::Whole),
            ("a b\r\n", 6, &whole, Coverage::TooShort),
        ];
        for (body, limit, expected, coverage) in cases {
            for chunk in 1..=body.len() {
                let got = hash(body, chunk, Relaxed, Some(limit));
                assert_eq!(
                    got,
                    (expected.clone(), coverage),
                    "{body:?} in chunks of {chunk}"
                );
            }
        }
        let (nothing, _) = hash("x", 1, Simple, Some(0));
        assert_eq!(nothing, hash("", 1, Relaxed, None).0);
    }

    #[test]
    fn several_hashes_share_one_pass() {
        let mut hasher = BodyHasher::default();
        assert!(hasher.is_satisfied());
        hasher.request(Simple, Some(2));
        hasher.request(Simple, None);
        hasher.request(Relaxed, None);
        hasher.push(b"a  b\r\n");
        assert!(!hasher.is_satisfied());
        let hashes = hasher.finish();
        assert_ne!(hashes.hash(Simple, None), hashes.hash(Relaxed, None));
        assert_eq!(hashes.hash(Relaxed, Some(2)), None);
        let part = hashes.hash(Simple, Some(2)).unwrap();
        assert_eq!(part.coverage, Coverage::Part { uncovered: 4 });
    }

    #[test]
    fn nothing_more_is_wanted_past_every_limit() {
        let mut hasher = BodyHasher::default();
        hasher.request(Simple, Some(3));
        hasher.push(b"abc");
        assert!(
            !hasher.is_satisfied(),
            "whether text follows is not known yet"
        );
        hasher.push(b"d");
        assert!(hasher.is_satisfied());
    }
}
