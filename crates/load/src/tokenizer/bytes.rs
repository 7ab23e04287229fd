//! The two ways vocabularies write what text files cannot show: byte-level BPE's alphabet, and `▁` for a space.

/// Byte-level BPE's alphabet (GPT-2, Radford et al. 2019): printable Latin-1 bytes stand for themselves, the other 68
/// for U+0100 and up, in order. Indexed by character; `None` outside the alphabet.
const BYTE_OF: [Option<u8>; 0x144] = {
    let mut table = [None; 0x144];
    let mut byte = 0;
    let mut next = 0x100;
    while byte < 256 {
        let printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
        if printable {
            table[byte] = Some(byte as u8);
        } else {
            table[next] = Some(byte as u8);
            next += 1;
        }
        byte += 1;
    }
    table
};

/// The inverse of [`BYTE_OF`].
const CHAR_OF: [char; 256] = {
    let mut table = ['\0'; 256];
    let mut c = 0;
    while c < BYTE_OF.len() {
        if let (Some(byte), Some(c)) = (BYTE_OF[c], char::from_u32(c as u32)) {
            table[byte as usize] = c;
        }
        c += 1;
    }
    table
};

/// `byte` in byte-level BPE's alphabet.
pub(crate) fn in_alphabet(byte: u8) -> char {
    CHAR_OF[usize::from(byte)]
}

/// Appends the bytes that `text`, written in byte-level BPE's alphabet, stands for. `false`, and nothing appended, where it
/// is not in that alphabet.
pub(super) fn decode_into(text: &[u8], out: &mut Vec<u8>) -> bool {
    let before = out.len();
    let Ok(text) = std::str::from_utf8(text) else { return false };
    for c in text.chars() {
        match BYTE_OF.get(c as usize).copied().flatten() {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(before);
                return false;
            }
        }
    }
    true
}

/// `▁`, SentencePiece's space.
pub(super) const UNDERLINE: &str = "\u{2581}";

/// Appends `text` with every `▁` as a space.
pub(super) fn unescape_into(text: &[u8], out: &mut Vec<u8>) {
    let mark = UNDERLINE.as_bytes();
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        if let Some(tail) = rest.strip_prefix(mark) {
            out.push(b' ');
            rest = tail;
        } else {
            out.push(first);
            rest = tail;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_spells_each_byte_once() {
        let mut seen: Vec<u8> = BYTE_OF.iter().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..=255).collect::<Vec<u8>>());
        let mut out = vec![];
        assert!(decode_into("Ġhello".as_bytes(), &mut out));
        assert!(decode_into("Ċĉ".as_bytes(), &mut out));
        assert_eq!(out, b" hello\n\t");
        assert!(!decode_into("a한".as_bytes(), &mut out));
        assert_eq!(out, b" hello\n\t");
    }

    #[test]
    fn underlines_become_spaces() {
        let mut out = vec![];
        unescape_into("▁a▁▁b한".as_bytes(), &mut out);
        assert_eq!(out, " a  b한".as_bytes());
    }
}
