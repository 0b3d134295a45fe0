"""Prefect tasks: read a shard, call one function of mlff_core, write a shard, return its path."""
