//! One chain of several: for a message whose recipients match different routes.
//!
//! Pure. Every filter of any chain once, in the order of the configuration: that of the chains, the
//! first one's where they contradict each other. Filters that are parallel in one chain stay so. If
//! one of the chains is strict, the whole is.

use std::sync::Arc;

use crate::member::{Chain, Member};

/// All of them as one; a single one as it is.
pub(crate) fn merge(chains: &[Arc<Chain>]) -> Option<Arc<Chain>> {
    let (first, others) = chains.split_first()?;
    if others.is_empty() {
        return Some(Arc::clone(first));
    }
    let strict = chains.iter().any(|chain| chain.strict);
    let mut segments = first.segments.clone();
    for chain in others {
        add(&mut segments, &chain.segments);
    }
    if strict {
        let one = |member| vec![member];
        segments = segments.into_iter().flatten().map(one).collect();
    }
    let names: Vec<&str> = chains.iter().map(|chain| &*chain.name).collect();
    Some(Arc::new(Chain {
        name: names.join("+"),
        segments,
        strict,
    }))
}

/// Puts what is not there yet before whatever follows it in its own chain.
fn add(segments: &mut Vec<Vec<Arc<Member>>>, others: &[Vec<Arc<Member>>]) {
    for (number, group) in others.iter().enumerate() {
        let (there, missing): (Vec<_>, Vec<_>) = group
            .iter()
            .partition(|member| place(segments, member).is_some());
        let missing = missing.into_iter().cloned();
        if let Some(at) = there.first().and_then(|member| place(segments, member)) {
            if let Some(segment) = segments.get_mut(at) {
                segment.extend(missing);
            }
            continue;
        }
        let next = others.iter().skip(number + 1).flatten();
        let at = next.filter_map(|member| place(segments, member)).min();
        // Whoever comes before it in its chain may be asked what it said.
        let before = others.iter().take(number).flatten();
        let before = before.filter_map(|member| place(segments, member)).max();
        let least = before.map_or(0, |before| before + 1);
        let missing: Vec<Arc<Member>> = missing.collect();
        segments.insert(at.unwrap_or(segments.len()).max(least), missing);
    }
}

fn place(segments: &[Vec<Arc<Member>>], member: &Arc<Member>) -> Option<usize> {
    segments
        .iter()
        .position(|group| group.iter().any(|one| Arc::ptr_eq(one, member)))
}
