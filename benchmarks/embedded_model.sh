#!/usr/bin/env bash
# The embedded model from nothing: corpus, aligner, durations, backbone, head, student, pipeline, figures. Every line goes
# on where it was cut off, so the whole is run again until it ends. Hours and figures: docs/embedded-model.md.
#
#   SENTENCES=sentences.txt KATHLEEN=folder/of/recordings benchmarks/embedded_model.sh
#
# SENTENCES: text, a sentence a line. KATHLEEN: a real voice (rhasspy/dataset-voice-kathleen, CC0). KOKORO: folder or Hub
# name of Kokoro-82M as ONNX. WORDNET: Debian's wordnet-base. On a CPU, add CPU="--frames_per_batch 4000 --gradient_accumulation_steps 10".
# SMALL=1 walks the whole path first, in minutes, with a few clips and steps: in a clone of its own, for what is there is gone on with.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${SENTENCES:?a text file with a sentence a line}" "${KATHLEEN:?a folder of recordings}"
PYTHON=${PYTHON:-.venv/bin/python} WORDNET=${WORDNET:-/usr/share/wordnet}
RECOGNIZER=${RECOGNIZER:-whisper:base} KOKORO=${KOKORO:-onnx-community/Kokoro-82M-v1.0-ONNX}
read -ra CPU <<<"${CPU:-}"
ROWS=12700 WORDS=2000 HELD_OUT=150 HELD_OUT_WORDS=60 LESS=() FEW=()
if [ -n "${SMALL:-}" ]; then
    ROWS=60 WORDS=20 HELD_OUT=12 HELD_OUT_WORDS=4 FEW=(--limit 2 --repeats 0)
    LESS=(--max_steps 3 --warmup_steps 0 --eval_interval 3 --save_interval 3 --frames_per_batch 1500 --max_samples 8
        --torch_compile false)
fi
corpus() { "$PYTHON" -m dtm_hf.training.corpus "$@"; }
train() { "$PYTHON" training/train.py --config "training/configs/$1.yaml" --report_to none "${@:2}" "${LESS[@]}"; }

mkdir -p corpus runs
[ -f corpus/phrases.txt ] || corpus phrases corpus/phrases.txt --num 1500 --seed 0
[ -f corpus/examples.txt ] || corpus examples "$WORDNET" corpus/examples.txt --num 7000
[ -f corpus/words.txt ] || corpus examples "$WORDNET" corpus/words.txt --words --num 2400
ENGINE=(--engine kokoro --model "$KOKORO" --workers "${WORKERS:-2}" --shard-size 100
    --voices af_heart,af_bella,af_nicole,am_michael,am_fenrir,am_puck,bf_emma,bf_isabella,bm_george,bm_fable)
corpus build corpus/voice-kokoro --sentences "$SENTENCES" --sentences corpus/phrases.txt --sentences corpus/examples.txt \
    "${ENGINE[@]}" --unseen-voices af_sarah --num-train "$ROWS" --num-validation "$HELD_OUT" --num-test "$HELD_OUT" --num-unseen "$HELD_OUT"
corpus build corpus/voice-words --sentences corpus/words.txt "${ENGINE[@]}" \
    --num-train "$WORDS" --num-validation "$HELD_OUT_WORDS" --num-test "$HELD_OUT_WORDS"
corpus prepare "$KATHLEEN" corpus/kathleen --split-by-text --workers 1

train alignment_voice
train durations_voice
train flow_matching_voice "${CPU[@]}"
train dtm_policy_voice "${CPU[@]}"
train tdm_voice "${CPU[@]}"
"$PYTHON" benchmarks/embedded_assets.py runs out/dtm-f5-voice
"$PYTHON" benchmarks/embedded_voices.py out/dtm-f5-voice "$KOKORO" corpus/kathleen "$RECOGNIZER"
judge() {
    .venv/bin/dtm-hf benchmark --model out/dtm-f5-voice --student out/dtm-f5-voice/student --recognizer "$RECOGNIZER" "${FEW[@]}" "$@"
}
judge --set corpus/voice-kokoro --split test --seeds 0,1,2 --arms euler-32,euler-4,analytic-4+1,dtm-4x1,student-4 -o runs/benchmark
judge --set corpus/kathleen --split test --seeds 0,1,2 --arms dtm-4x1,student-4 -o runs/benchmark-kathleen
judge --set corpus/voice-kokoro --split unseen --arms dtm-4x1,student-4 -o runs/benchmark-unseen
judge --set typed --arms dtm-4x1,student-4 -o runs/benchmark-typed
"$PYTHON" benchmarks/takes.py corpus/kathleen runs/benchmark-kathleen dtm-4x1 student-4
