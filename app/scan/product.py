"""The products of codes with queries, many at once, by NumKong: exact in int32 on every processor.

It takes the widest instructions there are (VNNI, the dot products of ARM); which ones changes the time alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


class Product:
    """Rows in, their products with these queries out."""

    def __init__(self, queries_QD: npt.NDArray[np.int8]) -> None:
        import numkong

        self._library: Any = numkong
        self.queries_QD = np.ascontiguousarray(queries_QD)
        self._packed = numkong.dots_pack(self.queries_QD)

    def __call__(self, rows_BD: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
        """[B, Q]."""
        rows_BD = np.ascontiguousarray(rows_BD)
        if len(self.queries_QD) == 1:  # 1.7 ms where the other takes 2.7, for 100,000 x 512
            found = self._library.cdist(rows_BD, self.queries_QD, "dot")  # whole numbers in float64
            return np.asarray(found).astype(np.int32)
        out_BQ = np.empty((len(rows_BD), len(self.queries_QD)), np.int32)
        address, shape = out_BQ.ctypes.data, out_BQ.shape
        out = self._library.from_pointer(address, shape, "int32", owner=out_BQ)
        self._library.dots_packed(rows_BD, self._packed, out=out)
        return out_BQ
