package cluster

import "regexp"

// Offsets are strings in JSON, since they pass 2^53.
var endOffset = regexp.MustCompile(`"end_offset":\s*"?(\d+)`)
