package runtime

import (
	"context"
	"errors"
)

// laterPart answers the request for a later part of a comparison with a snapshot, if it is kept and both sides are still there.
func (s *Session) laterPart(ctx context.Context, op, of, snapshotID string, req DiffRequest) (res DiffResult, ok bool) {
	if req.After == "" || looks(ctx) || !s.can(CanFork) {
		return res, false
	}
	if _, err := s.box(op, of); err != nil {
		return res, false
	}
	if _, err := s.findSnapshot(op, snapshotID); err != nil {
		return res, false
	}
	return s.parts.later(req)
}

// checkpoint makes a sandbox from a snapshot for as long as it is compared with another side, which is a sandbox. Nobody but the
// comparison sees it. It counts as one of the session, and what is used up meanwhile ends the context that is returned. done
// closes it.
func (s *Session) checkpoint(ctx context.Context, op, id string, other *side) (_ *side, _ context.Context, done func(), err error) {
	if looks(ctx) {
		return nil, nil, nil, refuse(CodeDenied, op, "use a token of the tenant that is no view token", "to compare with a snapshot takes a sandbox, and this token only shows what there is")
	}
	if !s.can(CanFork) {
		return nil, nil, nil, refuse(CodeDenied, op, "ask whoever opened the session for it", "to compare with a snapshot it is restored, and this session has no capability %q", CanFork)
	}
	snap, image, err := s.holdSnapshot(op, id)
	if err != nil {
		return nil, nil, nil, err
	}
	free := image.release
	defer func() {
		if err != nil {
			free()
		}
	}()
	it := &side{system: snap.System, digest: snap.Saved.Spec.Image.Digest}
	if !it.like(other) {
		return nil, nil, nil, unlike(op)
	}
	if err := errors.Join(s.allow(op, snap.Spec), s.r.limitKept(op, "snapshot", snap.Saved.Spec, snap.Spec), s.affordable(op)); err != nil {
		return nil, nil, nil, err
	}
	memory := int64(snap.Spec.MemoryMiB)
	if no := s.ledger.reserve(1, memory); no != nil {
		return nil, nil, nil, no.err(op, s.nextReap())
	}
	ctx, _, paid := s.toll(ctx, op, snap.Spec.VCPUs)
	free = func() {
		paid()
		s.ledger.release(1, memory)
		image.release()
	}
	if _, it.raw, err = s.r.restore(ctx, op, snap, image); err != nil {
		return nil, nil, nil, err
	}
	return it, ctx, func() {
		closed := s.r.drive(context.WithoutCancel(ctx), snap.System, "close")
		err := it.raw.Close()
		if closed(&err); err != nil {
			s.r.log.Error("could not close what a snapshot was restored to for a comparison", "snapshot", id, "error", err)
		}
		free()
	}, nil
}
