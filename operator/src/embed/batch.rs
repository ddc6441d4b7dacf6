//! The vectors of one batch, whatever the provider does: it is asked again, and a product that it refuses is left out.

use storefence_runtime::{Embeddings, EmbeddingsError};

use super::{Retries, rows::Stale};

/// Bytes of a text that are sent. OpenAI's models take 8,191 tokens and refuse more, and no token is shorter than a byte:
/// this fits in every language, and is some 1,300 words of English, where a description has said what the product is.
const TEXT_MAX: usize = 8_000;

/// What no provider refuses that works at all.
const PLAIN: &str = "a product";

/// A product with its vector.
pub type Embedded<'a> = (&'a Stale, Vec<f32>);

/// Embeds the products of a batch. Where the provider refuses it, which part it is about is found by halves; what it
/// refuses alone is logged and not among the answer.
///
/// # Errors
/// The provider is away, or refuses everything.
pub async fn embed<'a>(
    provider: &Embeddings,
    batch: &'a [Stale],
    retries: Retries,
) -> Result<Vec<Embedded<'a>>, EmbeddingsError> {
    let mut embedded = Vec::with_capacity(batch.len());
    let mut parts = vec![batch];
    let mut works = false;
    while let Some(part) = parts.pop() {
        let texts: Vec<String> = part.iter().map(|product| cut(&product.text).to_owned()).collect();
        let error = match persistent(provider, &texts, retries).await {
            Ok(vectors) => {
                embedded.extend(part.iter().zip(vectors));
                continue;
            }
            Err(error) if error.is_about_texts() => error,
            Err(error) => return Err(error),
        };
        // A provider that takes no text at all would be asked twice for every product there is.
        if !works {
            persistent(provider, &[PLAIN.to_owned()], retries).await?;
            works = true;
        }
        match part {
            [] => {}
            [product] => tracing::warn!(
                product_id = %product.product_id, reason = error.reason(), %error,
                "a product is left without a vector: edit its text, or give it to another model"
            ),
            more => {
                let (first, second) = more.split_at(more.len() / 2);
                parts.extend([second, first]);
            }
        }
    }
    Ok(embedded)
}

/// The start of a text, as far as models read.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_MAX)]
}

/// One call, repeated while that may help.
async fn persistent(
    provider: &Embeddings,
    texts: &[String],
    retries: Retries,
) -> Result<Vec<Vec<f32>>, EmbeddingsError> {
    let mut wait = retries.first_wait;
    let mut attempt = 1;
    loop {
        let error = match provider.embed(texts).await {
            Ok(vectors) => return Ok(vectors),
            Err(error) => error,
        };
        let Some(asked) = error.retry().filter(|_| attempt < retries.attempts) else { return Err(error) };
        let pause = asked.unwrap_or(wait);
        if pause > retries.longest_wait {
            return Err(error);
        }
        tracing::warn!(reason = error.reason(), %error, wait_ms = pause.as_millis(), attempt, "embedding is tried again");
        tokio::time::sleep(pause).await;
        wait = (wait * 2).min(retries.longest_wait);
        attempt += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("glue"), "glue");
        assert_eq!(cut(&"x".repeat(TEXT_MAX + 1)).len(), TEXT_MAX);
        let long = "€".repeat(TEXT_MAX);
        assert_eq!(cut(&long).len(), TEXT_MAX - TEXT_MAX % 3);
    }
}
