"""Components that know nothing about sessions: VAD, end of turn, STT, LLM, TTS; one module a vendor."""
