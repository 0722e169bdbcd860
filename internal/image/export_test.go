package image

import "context"

// BuildLimited is Build with other bounds than the usual.
func (s *Store) BuildLimited(ctx context.Context, name, source string, entries int, bytes int64) (Entry, error) {
	lim := defaultLimits()
	lim.entries, lim.bytes = entries, bytes
	return s.build(ctx, name, source, nil, lim)
}
