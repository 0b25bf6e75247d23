"""Vector store service: stores chunks with vectors and postings, and searches them."""
