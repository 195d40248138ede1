"""The OpenAI surface: schema.py holds pydantic types only, one router a resource."""
