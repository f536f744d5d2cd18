//! A command in a machine's terminal: what wraps it, and where its output and its
//! exit status are in what comes back. machined tells neither when a command
//! ends nor how (org.freedesktop.machine1(5), OpenMachineShell). Pure.

/// Tells our words from those of the command: in the guest, nobody else knows it but
/// the shell that it is told, and whoever may look into that: the same user, and root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token(String);

/// Begins and ends each of our words (ASCII's record separator).
const MARK: u8 = 0x1e;
/// A status is three digits at most.
const WORD_LENGTH: usize = 64;
/// Asks for the token: the words of a command stand in /proc, for every user to read, and
/// those of a service in its unit file; what comes in by the terminal does not.
const ASK: &[u8] = b"\x1ensctl?\x1e";
/// How much is kept of what is said before the command begins.
const BEFORE: usize = 4096;

impl Token {
    /// From random bits.
    pub fn new(random: u128) -> Token {
        Token(format!("{random:032x}"))
    }

    /// The words of sh(1) that run a command between our words: its own output is
    /// not changed where `plain`, for pipes. Ctrl-C is the command's own: we say how that ended. Where nobody
    /// answers, as who has asked is gone, nothing is run.
    pub fn wrap(command: &[String], plain: bool) -> Vec<String> {
        let (prepare, then) = if plain { ("-opost -echo", ":") } else { ("-echo", "stty echo 2>/dev/null") };
        let script = format!(
            "stty {prepare} 2>/dev/null; unset token; printf '\\036nsctl?\\036'; IFS= read -r token || exit 129; {then}; \
             printf '\\036%s\\036' \"$token\"; trap : INT QUIT; \"$@\"; printf '\\036%s:%d\\036' \"$token\" $?"
        );
        let mut words = vec!["-c".to_owned(), script, "sh".to_owned()];
        words.extend_from_slice(command);
        words
    }

    fn begin(&self) -> Vec<u8> {
        [&[MARK], self.0.as_bytes(), &[MARK]].concat()
    }

    fn end(&self) -> Vec<u8> {
        [&[MARK], self.0.as_bytes(), b":"].concat()
    }
}

/// Finds our words in what a terminal says, piece by piece.
#[derive(Debug)]
pub struct ExecStream {
    token: Token,
    pending: Vec<u8>,
    has_begun: bool,
    has_told: bool,
}

impl ExecStream {
    pub fn new(token: Token) -> ExecStream {
        ExecStream { token, pending: Vec::new(), has_begun: false, has_told: false }
    }

    /// Whether the command has been begun.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// What is to be written to the terminal now: the token, once it is asked for.
    pub fn answer(&mut self) -> Option<Vec<u8>> {
        if self.has_told || find(&self.pending, ASK).is_none() {
            return None;
        }
        self.has_told = true;
        Some(format!("{}\n", self.token.0).into_bytes())
    }

    /// What the command itself said in this piece, and its status if it has ended.
    pub fn feed(&mut self, piece: &[u8]) -> (Vec<u8>, Option<u8>) {
        self.pending.extend_from_slice(piece);
        if !self.has_begun {
            let begin = self.token.begin();
            let Some(at) = find(&self.pending, &begin) else {
                self.pending.drain(..self.pending.len().saturating_sub(BEFORE));
                return (Vec::new(), None);
            };
            self.pending.drain(..at + begin.len());
            self.has_begun = true;
        }
        let end = self.token.end();
        if let Some(at) = find(&self.pending, &end) {
            let rest = &self.pending[at + end.len()..];
            if let Some(length) = rest.iter().position(|byte| *byte == MARK) {
                let status = std::str::from_utf8(&rest[..length]).ok().and_then(|text| text.parse().ok());
                self.pending.truncate(at);
                return (std::mem::take(&mut self.pending), Some(status.unwrap_or(1)));
            }
            if rest.len() > WORD_LENGTH {
                self.pending.truncate(at);
                return (std::mem::take(&mut self.pending), Some(1));
            }
            let said = self.pending.drain(..at).collect();
            return (said, None);
        }
        // The beginning of our last word may be at the end of this piece.
        let tail = &self.pending[self.pending.len().saturating_sub(WORD_LENGTH)..];
        let kept = tail.iter().position(|byte| *byte == MARK).map_or(0, |at| tail.len() - at);
        let said = self.pending.drain(..self.pending.len() - kept).collect();
        (said, None)
    }

    /// What is left when the terminal is gone.
    pub fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.pending)
    }
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|window| window == word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn output_and_status_are_found_however_it_is_cut(
            before in "[a-z\\x1b]{0,10}", said in "[a-z\\x1e\n]{0,80}", status: u8, cuts in proptest::collection::vec(1usize..7, 0..60)
        ) {
            let token = Token::new(7);
            let mut whole = before.into_bytes();
            whole.extend(token.begin());
            whole.extend(said.as_bytes());
            whole.extend([token.end(), status.to_string().into_bytes(), vec![MARK]].concat());
            let mut stream = ExecStream::new(token);
            let (mut out, mut ended) = (Vec::new(), None);
            let mut rest = &whole[..];
            let mut cuts = cuts.into_iter();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(cuts.next().unwrap_or(rest.len()).min(rest.len()));
                let (text, status) = stream.feed(piece);
                out.extend(text);
                ended = ended.or(status);
                rest = after;
            }
            prop_assert_eq!(String::from_utf8(out).unwrap(), said);
            prop_assert_eq!(ended, Some(status));
        }
    }

    #[test]
    fn a_flood_is_not_kept() {
        let mut stream = ExecStream::new(Token::new(7));
        for _ in 0..1000 {
            assert_eq!(stream.feed(&[b'x'; 4096]), (Vec::new(), None));
        }
        assert!(stream.rest().len() <= BEFORE);
        let mut begun = ExecStream::new(Token::new(7));
        begun.feed(&Token::new(7).begin());
        let (mut said, mut status) = begun.feed(&[Token::new(7).end(), vec![b'1'; 2 * WORD_LENGTH]].concat());
        assert_eq!((std::mem::take(&mut said), status.take()), (Vec::new(), Some(1)));
        for _ in 0..100 {
            begun.feed(&[MARK; 4096]);
        }
        assert!(begun.rest().len() <= WORD_LENGTH);
    }

    #[test]
    fn the_token_is_told_once_and_stands_in_no_word() {
        let mut stream = ExecStream::new(Token::new(7));
        assert!(Token::wrap(&["id".into()], true).iter().all(|word| !word.contains("0007")));
        stream.feed(b"Welcome");
        assert_eq!(stream.answer(), None);
        stream.feed(ASK);
        assert_eq!(stream.answer(), Some(format!("{:032x}\n", 7).into_bytes()));
        assert_eq!(stream.answer(), None);
    }

    #[test]
    fn what_does_not_begin_says_nothing() {
        let mut stream = ExecStream::new(Token::new(7));
        assert_eq!(stream.feed(b"no such shell"), (Vec::new(), None));
        assert!(!stream.has_begun());
    }
}
