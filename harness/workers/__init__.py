"""Where models answer: in pieces of requests, in this process or in workers of their own."""
