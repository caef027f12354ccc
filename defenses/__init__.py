"""Defenses, one file each: between victim and client they change the answer or judge the query."""
