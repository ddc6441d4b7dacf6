//! What lives for a while under a name that nobody can guess: requests, codes, refresh tokens.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Most entries at a time; whoever floods the stand-in pushes out the oldest.
const MOST: usize = 1000;

pub(super) struct Expiring<T> {
    entries: HashMap<String, (Instant, T)>,
    lifetime: Duration,
}

impl<T> Expiring<T> {
    pub(super) fn new(lifetime: Duration) -> Self {
        Self { entries: HashMap::new(), lifetime }
    }

    pub(super) fn set_lifetime(&mut self, lifetime: Duration) {
        self.lifetime = lifetime;
    }

    /// Keeps a value and answers its name.
    pub(super) fn insert(&mut self, value: T) -> String {
        let now = Instant::now();
        self.entries.retain(|_, (end, _)| *end > now);
        if self.entries.len() >= MOST {
            let first = self.entries.iter().min_by_key(|(_, (end, _))| *end).map(|(name, _)| name.clone());
            first.map(|name| self.entries.remove(&name));
        }
        let name = crate::random::password();
        self.entries.insert(name.clone(), (now + self.lifetime, value));
        name
    }

    pub(super) fn get(&mut self, name: &str) -> Option<&mut T> {
        self.entries.get_mut(name).filter(|(end, _)| *end > Instant::now()).map(|(_, value)| value)
    }

    pub(super) fn take(&mut self, name: &str) -> Option<T> {
        self.entries.remove(name).filter(|(end, _)| *end > Instant::now()).map(|(_, value)| value)
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        self.entries.retain(|_, (_, value)| keep(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_end_and_are_bounded() {
        let mut kept = Expiring::new(Duration::from_secs(60));
        let names: Vec<String> = (0..MOST + 10).map(|n| kept.insert(n)).collect();
        assert_eq!(kept.entries.len(), MOST);
        assert_eq!(kept.take(&names[MOST + 9]), Some(MOST + 9));
        assert_eq!(kept.take(&names[MOST + 9]), None);
        kept.set_lifetime(Duration::ZERO);
        let ended = kept.insert(1);
        assert!(kept.get(&ended).is_none());
    }
}
