"""The blocklists that ship with dnsfilter: text files, each with its provenance in its head."""
