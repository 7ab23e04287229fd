//! Bytes to characters, incrementally: a token may end inside a character.

/// Holds the bytes of a character that is not complete yet.
#[derive(Debug, Default)]
pub(super) struct Detokenizer {
    /// At most 3 bytes between calls.
    held: Vec<u8>,
}

impl Detokenizer {
    /// Appends the characters that `bytes` complete. Bytes that can never become UTF-8 are U+FFFD at once.
    pub fn push(&mut self, bytes: &[u8], out: &mut String) {
        self.held.extend_from_slice(bytes);
        let mut done = 0;
        loop {
            match std::str::from_utf8(&self.held[done..]) {
                Ok(text) => {
                    out.push_str(text);
                    done = self.held.len();
                    break;
                }
                Err(e) => {
                    let valid = done + e.valid_up_to();
                    out.push_str(&String::from_utf8_lossy(&self.held[done..valid]));
                    done = valid;
                    match e.error_len() {
                        Some(n) => {
                            out.push(char::REPLACEMENT_CHARACTER);
                            done += n;
                        }
                        None => break,
                    }
                }
            }
        }
        self.held.drain(..done);
    }

    /// The bytes end here: an incomplete character becomes one U+FFFD.
    pub fn finish(&mut self, out: &mut String) {
        if !self.held.is_empty() {
            self.held.clear();
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
}
