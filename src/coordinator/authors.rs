//! Who did it: the operator's words that have come or gone and are not applied everywhere yet. What a word changes is
//! applied in pieces, and the history of each endpoint names the word, or the end of the word, that changed it.

use std::{collections::VecDeque, sync::Arc};

use super::words::{Saying, Word};
use crate::{limits, sasp::Endpoint};

/// A word that has come or gone.
struct News {
    word: Arc<Word>,
    /// Who ended the word and why; `None` if the word has come.
    end: Option<Box<str>>,
}

/// The newest words that have come or gone.
#[derive(Default)]
pub(super) struct Authors(VecDeque<News>);

impl Authors {
    /// A word has come.
    pub(super) fn said(&mut self, word: Arc<Word>) {
        self.note(News { word, end: None });
    }

    /// A word has gone.
    pub(super) fn unsaid(&mut self, word: Arc<Word>, end: &str) {
        self.note(News { word, end: Some(end.into()) });
    }

    fn note(&mut self, news: News) {
        if self.0.len() == limits::OPERATOR_WORDS {
            self.0.pop_front();
        }
        self.0.push_back(news);
    }

    /// All of them are applied everywhere.
    pub(super) fn settle(&mut self) {
        self.0.clear();
    }

    /// Who resumed an endpoint, of all words or of those about this group.
    pub(super) fn of_resume(&self, group: Option<(&[u8], &[u8])>, endpoint: &Endpoint) -> Option<Box<str>> {
        self.newest(endpoint, |word, has_gone| match word.saying {
            Saying::Resume => !has_gone && group.map_or(word.pattern.is_of_endpoints(), |group| fits(word, group)),
            Saying::Quiesce => {
                has_gone
                    && match group {
                        Some(group) => !word.pattern.is_of_endpoints() && fits(word, group),
                        None => word.pattern.is_of_endpoints(),
                    }
            }
            Saying::Weight(_) => false,
        })
    }

    /// Who ended the fixed weight of an endpoint.
    pub(super) fn of_release(&self, endpoint: &Endpoint) -> Option<Box<str>> {
        self.newest(endpoint, |word, has_gone| has_gone && matches!(word.saying, Saying::Weight(_)))
    }

    fn newest(&self, endpoint: &Endpoint, is_cause: impl Fn(&Word, bool) -> bool) -> Option<Box<str>> {
        let fits = |news: &&News| news.word.pattern.fits_endpoint(endpoint) && is_cause(&news.word, news.end.is_some());
        let News { word, end } = self.0.iter().rev().find(fits)?;
        Some(end.clone().unwrap_or_else(|| word.author().into()))
    }
}

fn fits(word: &Word, (lb_uid, group): (&[u8], &[u8])) -> bool {
    word.pattern.fits_group(lb_uid, group)
}
