//! The paged cache's ids: which blocks of keys and values are free, in use, or kept for a later prompt.
//!
//! Only ids live here; the bytes are the runner's. A *full* block can be published under its contents, so that a later
//! sequence with the same beginning shares it instead of computing it again. Its key is the key of the block before it
//! and its own tokens. The block before stands in it as a serial number that is never used twice, so that two keys are
//! equal exactly when all tokens up to the end of the block are: there is no hash to collide.

use kinfer_core::batch::BLOCK_LEN;
use std::collections::{BTreeMap, HashMap};

/// The serial number that stands for "no block before".
pub const ROOT: u64 = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    parent: u64,
    tokens: [u32; BLOCK_LEN],
}

#[derive(Clone, Debug, Default)]
struct Block {
    /// Sequences that use it.
    users: u32,
    /// What it is published under.
    key: Option<Key>,
    /// Its serial number, when published.
    serial: u64,
    /// When it became idle: published and used by no sequence.
    idle_since: u64,
}

/// The block manager.
#[derive(Debug)]
pub struct Blocks {
    blocks: Vec<Block>,
    /// Blocks without contents worth keeping.
    free: Vec<u32>,
    /// Published blocks that no sequence uses, the longest idle first.
    idle: BTreeMap<u64, u32>,
    published: HashMap<Key, u32>,
    /// Source of serial numbers and of the order of idle blocks.
    clock: u64,
}

impl Blocks {
    /// Manages the blocks `0..count`.
    pub fn new(count: usize) -> Self {
        Self {
            blocks: vec![Block::default(); count],
            free: (0..count as u32).rev().collect(),
            idle: BTreeMap::new(),
            published: HashMap::with_capacity(count),
            clock: ROOT,
        }
    }

    /// Blocks that [`Blocks::alloc`] can still give.
    pub fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// How many of the first blocks of `tokens` are published, and how many of those are idle (and so counted by
    /// [`Blocks::available`]).
    pub fn matching(&self, tokens: &[u32]) -> (usize, usize) {
        let (mut parent, mut count, mut idle) = (ROOT, 0, 0);
        for (block, serial) in std::iter::from_fn(|| self.next_match(&mut parent, tokens, &mut count)) {
            debug_assert_ne!(serial, ROOT);
            idle += usize::from(self.blocks[block as usize].users == 0);
        }
        (count, idle)
    }

    fn next_match(&self, parent: &mut u64, tokens: &[u32], count: &mut usize) -> Option<(u32, u64)> {
        let tokens = *tokens.get(*count * BLOCK_LEN..)?.first_chunk()?;
        let block = *self.published.get(&Key { parent: *parent, tokens })?;
        *parent = self.blocks[block as usize].serial;
        *count += 1;
        Some((block, *parent))
    }

    /// Takes the published blocks of the beginning of `tokens`, in order, and returns the last one's serial number.
    pub fn share(&mut self, tokens: &[u32], out: &mut Vec<u32>) -> u64 {
        let (mut parent, mut count) = (ROOT, 0);
        while let Some((id, _)) = self.next_match(&mut parent, tokens, &mut count) {
            let block = &mut self.blocks[id as usize];
            if block.users == 0 {
                self.idle.remove(&block.idle_since);
            }
            block.users += 1;
            out.push(id);
        }
        parent
    }

    /// Takes a block without contents, if need be the longest idle one.
    pub fn alloc(&mut self) -> Option<u32> {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                let (_, id) = self.idle.pop_first()?;
                if let Some(key) = self.blocks[id as usize].key.take() {
                    self.published.remove(&key);
                }
                id
            }
        };
        self.blocks[id as usize].users = 1;
        Some(id)
    }

    /// Publishes a block whose positions have all been computed: its `tokens` follow the block with serial number
    /// `parent`. Returns the serial number for the next block; that of another block where the same contents are
    /// published already.
    pub fn publish(&mut self, id: u32, parent: u64, tokens: &[u32; BLOCK_LEN]) -> u64 {
        let key = Key { parent, tokens: *tokens };
        if let Some(&other) = self.published.get(&key) {
            return self.blocks[other as usize].serial;
        }
        self.clock += 1;
        let block = &mut self.blocks[id as usize];
        (block.key, block.serial) = (Some(key), self.clock);
        self.published.insert(key, id);
        self.clock
    }

    /// Gives back a sequence's blocks. Published ones stay, the last of the sequence first to go.
    pub fn release(&mut self, ids: &mut Vec<u32>) {
        for id in ids.drain(..).rev() {
            let block = &mut self.blocks[id as usize];
            block.users -= 1;
            if block.users > 0 {
                continue;
            }
            if block.key.is_none() {
                self.free.push(id);
            } else {
                self.clock += 1;
                block.idle_since = self.clock;
                self.idle.insert(self.clock, id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(n: usize) -> Vec<u32> {
        (0..n as u32).collect()
    }

    /// A sequence that allocates and publishes all of its full blocks.
    fn fill(b: &mut Blocks, tokens: &[u32]) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut parent = b.share(tokens, &mut ids);
        for chunk in tokens.chunks(BLOCK_LEN).skip(ids.len()) {
            ids.push(b.alloc().unwrap());
            if let Some(full) = chunk.first_chunk() {
                parent = b.publish(*ids.last().unwrap(), parent, full);
            }
        }
        ids
    }

    #[test]
    fn equal_beginnings_share_full_blocks() {
        let mut b = Blocks::new(10);
        let a = fill(&mut b, &tokens(3 * BLOCK_LEN + 5));
        assert_eq!((a.len(), b.available()), (4, 6));
        // Same first two blocks, then another token.
        let mut other = tokens(3 * BLOCK_LEN);
        other[2 * BLOCK_LEN] = 999;
        assert_eq!(b.matching(&other), (2, 0));
        let mut c = fill(&mut b, &other);
        assert_eq!((&c[..2], b.available()), (&a[..2], 5));
        assert!(!a.contains(&c[2]));
        // A partial block is never shared.
        assert_eq!(b.matching(&tokens(BLOCK_LEN - 1)).0, 0);
        // The same tokens in another place are not the same block.
        assert_eq!(b.matching(&tokens(2 * BLOCK_LEN)[BLOCK_LEN..]).0, 0);
        b.release(&mut c);
        assert_eq!((b.available(), b.matching(&other)), (6, (3, 1)));
    }

    #[test]
    fn idle_blocks_are_evicted_oldest_first_and_last_of_a_sequence_first() {
        let mut b = Blocks::new(4);
        let (x, y) = (tokens(2 * BLOCK_LEN), vec![7; 2 * BLOCK_LEN]);
        let (mut ix, mut iy) = (fill(&mut b, &x), fill(&mut b, &y));
        assert_eq!((b.available(), b.alloc()), (0, None));
        b.release(&mut ix);
        b.release(&mut iy);
        assert_eq!((b.matching(&x).0, b.matching(&y).0), (2, 2));
        b.alloc().unwrap();
        assert_eq!((b.matching(&x).0, b.matching(&y).0), (1, 2));
        b.alloc().unwrap();
        assert_eq!((b.matching(&x).0, b.matching(&y).0), (0, 2));
        // Use makes a block young again.
        let mut again = Vec::new();
        b.share(&y[..BLOCK_LEN], &mut again);
        b.alloc().unwrap();
        assert_eq!((b.matching(&y).0, b.alloc()), (1, None));
        b.release(&mut again);
        assert_eq!(b.available(), 1);
    }

    #[test]
    fn contents_computed_twice_are_published_once() {
        let mut b = Blocks::new(4);
        let (t, mut ids) = (tokens(BLOCK_LEN), [Vec::new(), Vec::new()]);
        let full = t.first_chunk().unwrap();
        let serials = ids.each_mut().map(|ids| {
            ids.push(b.alloc().unwrap());
            b.publish(ids[0], ROOT, full)
        });
        assert_eq!(serials[0], serials[1]);
        b.release(&mut ids[1]);
        b.release(&mut ids[0]);
        // The second block was freed, the first is kept.
        assert_eq!((b.free.len(), b.idle.len()), (3, 1));
    }

    #[test]
    fn a_child_of_an_evicted_block_is_not_found_again() {
        let mut b = Blocks::new(2);
        let t = tokens(2 * BLOCK_LEN);
        let mut ids = fill(&mut b, &t);
        // Release the child last, so that its parent is evicted first.
        let mut child = vec![ids.pop().unwrap()];
        b.release(&mut ids);
        b.release(&mut child);
        let mut other = vec![b.alloc().unwrap()];
        b.publish(other[0], ROOT, t[BLOCK_LEN..].first_chunk().unwrap());
        assert_eq!(b.matching(&t).0, 0);
        b.release(&mut other);
    }
}
