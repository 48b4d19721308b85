"""Codes of languages that ISO 639-3 no longer has, or that others use in its place, and the macrolanguages.

The facts are those of the registration authority of ISO 639-3 (its tables of retired codes and of macrolanguages, as
of July 2025) and of Wikipedia (the codes of its editions). `pycountry` has the codes in use, but none of these.
"""

from __future__ import annotations


def _table(text: str) -> dict[str, list[str]]:
    """Returns code -> codes, from words such as `eml:egl,rgn`."""
    return {code: codes.split(",") for code, _, codes in (word.partition(":") for word in text.split())}


RETIRED = _table(
    """
    aam:aas acc:acr adp:dzo aex:eng ahe:knx ajp:apc ajt:aeb asd:snz aue:ktz auv:oci ayx:nun bgh:bbh bgm:bcg bic:bir
    bjd:drl bke:pse blg:iba bnh:jaa boc:xkl bqe:eus bsd:bsb bsz:eus btb:beb bxt:bgk cbm:cak ccq:rki cjr:mom cka:cmr
    ckc:cak ckd:cak cke:cak ckf:cak cki:cak ckj:cak ckk:cak ckw:cak cmk:xch cnm:cac coy:pij cqu:quh cru:bwi cti:ctu
    cun:quc dat:mhu dek:sqm dit:dif drh:khk drr:kzk drw:prs eni:pse gav:dev gen:mxj gfx:vaj ggn:gvr gli:kzk gsc:oci
    gti:nyc guv:duz hrr:jal hsf:hus hva:hus ibi:opa ilw:gal itu:mzu ixi:ixl ixj:ixl jai:jac jap:jaa jaw:jav jeg:oyb
    kgc:tdf kgh:kml kgm:plu kob:xsu koj:kwv krg:khe krm:bmf krq:ljp ktr:dtp kvs:gdj kwq:yam kxe:tvd kxg:nij kxl:kru
    kzj:dtp kzt:dtp lak:ksp lii:raq llo:ngt lmm:rmx lms:oci lmt:mui lnc:oci lnt:pse meg:cir miv:amj mms:mam mol:ron
    mpf:mam mqd:xkl mst:mry mtz:mam mvc:mam mvj:mam mwj:vaj myd:aog myt:mry nad:xny ncp:kdz nfg:nfd nfk:nfd nhj:nhi
    nns:nbr nnx:ngv nom:cbr nte:eko nts:pij nxj:byd nxu:bpp occ:ile ogn:pse ope:peo oun:vaj paj:kpc pat:kxr pcr:adx
    pec:ljp pen:mui plm:mui pmc:huw pmk:crr pmu:phr poa:poc pob:poh poj:pkb pou:poc ppa:bfy ppr:lcq prp:guj prv:oci
    pry:prt pun:ljp puz:pub quj:quc qut:quc quu:quc qxi:quc rae:ljp rws:mui sca:hle scc:srp scr:hrv sdd:pse sdi:liw
    skk:oyb skl:knx slb:loe smd:kmb snb:iba srj:pse suu:ljp szd:umi szk:ikz tdu:dtp thc:tpo thw:ola thx:oyb tie:ras
    tkk:twm tle:enb tlw:weo tlz:rob tmk:tdg tmp:tyj tmx:ybi tne:kak tnf:prs tnj:kxn tpw:tpn tsf:taj ttx:bsb tzb:tzh
    tzc:tzo tze:tzo tzs:tzo tzt:tzj tzu:tzo tzz:tzo uok:ema vky:kge vmo:min xah:nij xba:cax xia:acn xkh:waw xrq:dmw
    xsk:kho xss:zko xuf:awn ybd:rki yib:eng yio:lpo yma:lrr ymt:mtm yos:zom yus:yua yuu:yug ywm:ywu zir:scv zkb:kjh
    ztc:zty
    """
)
"""A retired code -> the one code that took its place, in a list."""

SPLIT = _table(
    """
    agp:apf,prf ais:ami,szy aiz:aiw,gyl arf:afd,afk,afp azr:adz,zsu,zsa baz:tvu,nvo bcx:pmf,zbt bhk:ubl,lbl,rbl,fbl
    bii:bzi,lwm bij:tyy,jbm,dkg bjq:bzc,tkg bkb:ebk,obk blu:hnj,cqd,hrm,sfm bvs:sfb,vgt byu:yzg,yln,yha
    ccx:zgn,zlj,zqe,zgb,zyj,zch,zeh,zlq,zyb,zln ccy:zhn,zyg,zyn,zzj,zhd cit:rhg,ctg cug:cnq,bpc daf:dnj,lda
    dap:njz,tgj djl:dze,iin dkl:aqd,dmb dud:uth,uss duj:dwu,dwy dwl:dbw,dbt eml:egl,rgn fiz:gne,izr flm:rnl,cfm
    gbc:wrk,wny ggo:esg,wsg ggr:gtu,ikr gio:gqu,aou gji:gyz,zbu gmo:gmv,gof,dwr ill:ilp,ilm izi:izz,eza,iqw,gmz
    jar:jgk,jjr kds:lkc,lhi kdv:zkd,zkn kgd:ncq,sct kpp:jkp,jkm ksa:rsw,izm kxu:dwk,uki kzh:dgl,xnz leg:enl,enx
    lno:lgo,imt,lqr,oie lod:zbw,zbc,zbe mbg:apv,lkd,ltn,wmd,xtw,xyl mdo:gso,gmm mgx:jbk,jmw mhv:rmz,rki
    mly:zsm,hji,pmy,zlm mnt:xyk,xyt,xyj,wnn mob:cvg,lsh,kkf,twm,onp mof:xpq,xnt muw:unx,unr mvm:emq,wmg mwd:dmw
    mzf:aag,yde,ygl,ymo nbf:nxq,nru nbx:gll,xpt,xwk,jbi ngo:xnj,xnq nhs:nsu,npl nky:kix,pzn,jmn nln:azd,azn
    nlr:nrk,ywg noo:dtd,nuk ork:okv,aez,hkk plj:pze,nzr,zlu,uly rjb:rkt,rjs rmr:rmq,emx sap:spn,aqt sdm:sdq,ebc,gef
    sgl:sgy,isk sic:keh,sdk stc:ntu,nlz suf:tpf,kbi suh:sxb,ssc sul:tgn,sgd sum:yan,ulw tgg:bjp,hrc,hrw tid:ntd,itd
    tot:tku,tcw unp:wro,xgu uun:uon,pzh vki:vkn,vkz vlr:vra,lrz wgw:ylb,wgb wit:wnw,nol,pwi wiw:wgu,nwo
    wra:bpe,uni,suo wya:wyn,wdt xst:wle,stv xtz:xpv,xph,xpb,xpd,xpf,xpx,xpw,xpl,xpz yen:ynq,yot yiy:yyr,yrm
    ymj:ymc,ymi,ymq,ymx,ymz ypl:ypg,ypa,ypo ypw:yhl,ypb,ypn yym:nsd,nsv zua:tvi,dyr,dsk,cxh,zem
    """
)
"""A retired code -> the codes of the languages into which it was split."""

MACROLANGUAGES = _table(
    """
    aka:fat,twi
    ara:aao,abh,abv,acm,acq,acw,acx,acy,adf,aeb,aec,afb,apc,apd,arb,arq,ars,ary,arz,auz,avl,ayh,ayl,ayn,ayp,pga,shu,ssh
    aym:ayc,ayr aze:azb,azj bal:bcc,bgn,bgp bik:bcl,bln,bto,cts,fbl,lbl,rbl,ubl bnc:ebk,lbk,obk,rbk,vbk
    bua:bxm,bxr,bxu chm:mhr,mrj cre:crj,crk,crl,crm,csw,cwd del:umu,unm den:scs,xsl din:dib,dik,dip,diw,dks
    doi:dgo,xnr est:ekk,vro fas:pes,prs ful:ffm,fub,fuc,fue,fuf,fuh,fui,fuq,fuv gba:bdt,gbp,gbq,gmm,gso,gya
    gon:esg,gno,wsg grb:gbo,gec,grj,grv,gry grn:gnw,gug,gui,gun,nhd hai:hax,hdn hbs:bos,cnr,hrv,srp
    hmn:cqd,hea,hma,hmc,hmd,hme,hmg,hmh,hmi,hmj,hml,hmm,hmp,hmq,hms,hmw,hmy,hmz,hnj,hrm,huj,mmr,muq,mww,sfm
    iku:ike,ikt ipk:esi,esk jrb:aju,jye,yhd,yud kau:kby,knc,krt kln:enb,eyo,niq,oki,pko,sgc,spy,tec,tuy kok:gom,knn
    kom:koi,kpv kon:kng,kwy,ldi kpe:gkp,xpe kur:ckb,kmr,sdh lah:hnd,hno,jat,phr,pnb,skr,xhe lav:ltg,lvs
    luy:bxk,ida,lkb,lko,lks,lri,lrm,lsm,lto,lts,lwg,nle,nyd,rag man:emk,mku,mlq,mnk,msc,mwk
    mlg:bhr,bmm,bzc,msh,plt,skg,tdx,tkg,txy,xmv,xmw mon:khk,mvf
    msa:bjn,btj,bve,bvu,coa,dup,hji,ind,jak,jax,kvb,kvr,kxd,lce,lcf,liw,max,meo,mfa,mfb,min,mqg,msi,mui,orn,ors,pel,pse,tmw,urk,vkk,vkt,xmm,zlm,zmi,zsm
    mwr:dhd,mtr,mve,rwr,swv,wry nep:dty,npi nor:nno,nob oji:ciw,ojb,ojc,ojg,ojs,ojw,otw ori:ory,spv
    orm:gax,gaz,hae,orc pus:pbt,pbu,pst
    que:qub,qud,quf,qug,quh,quk,qul,qup,qur,qus,quw,qux,quy,quz,qva,qvc,qve,qvh,qvi,qvj,qvl,qvm,qvn,qvo,qvp,qvs,qvw,qvz,qwa,qwc,qwh,qws,qxa,qxc,qxh,qxl,qxn,qxo,qxp,qxr,qxt,qxu,qxw
    raj:bgq,gda,gju,hoj,mup,wbr rom:rmc,rmf,rml,rmn,rmo,rmw,rmy san:cls,vsn sqi:aae,aat,aln,als srd:sdc,sdn,src,sro
    swa:swc,swh syr:aii,cld tmh:taq,thv,thz,ttq uzb:uzn,uzs yid:ydd,yih
    zap:zaa,zab,zac,zad,zae,zaf,zai,zam,zao,zaq,zar,zas,zat,zav,zaw,zax,zca,zcd,zoo,zpa,zpb,zpc,zpd,zpe,zpf,zpg,zph,zpi,zpj,zpk,zpl,zpm,zpn,zpo,zpp,zpq,zpr,zps,zpt,zpu,zpv,zpw,zpx,zpy,zpz,zsr,zte,ztg,ztl,ztm,ztn,ztp,ztq,zts,ztt,ztu,ztx,zty
    zha:zch,zeh,zgb,zgm,zgn,zhd,zhn,zlj,zln,zlq,zqe,zyb,zyg,zyj,zyn,zzj
    zho:cdo,cjy,cmn,cnp,cpx,csp,czh,czo,gan,hak,hnm,hsn,luh,lzh,mnp,nan,sjc,wuu,yue zza:diq,kiu
    """
)
"""The code of a macrolanguage -> the codes of its languages."""

# The two-letter codes are retired ones of ISO 639-1. Of the others, most name editions of Wikipedia; `ns` is a code of
# M2M-100, `zho_simpl` and `zho_trad` are of FLORES-101, `sr-ec` and `sr-el` are of MediaWiki. As a code of Wikipedia,
# `als` is Alemannic (gsw) and `nrm` Norman (nrf), but ISO 639-3 has these codes for other languages, Tosk Albanian and
# Narom, and here they mean what they mean there.
OTHER_CODES = _table(
    """
    bh:bho in:ind iw:heb ji:yid jw:jav mo:ron ns:nso simple:eng
    bat-smg:sgs be-tarask:bel be-x-old:bel cbk-zam:cbk fiu-vro:vro map-bms:jav roa-rup:rup
    nds-nl:act,drt,gos,sdz,stl,twd,vel,wep
    sr-ec:srp_Cyrl sr-el:srp_Latn zh-classical:lzh zh-guoyu:cmn zh-hakka:hak zh-min:cdo,cpx,czo,mnp,nan
    zh-min-nan:nan zh-xiang:hsn zho-simpl:zho_Hans zho-trad:zho_Hant no-bok:nob no-nyn:nno
    bn-rom:ben_Latn hi-rom:hin_Latn ta-rom:tam_Latn te-rom:tel_Latn ur-rom:urd_Latn
    """
)
"""A code of others, in small letters and with hyphens -> the language or languages that it means."""

# `roa-tara` is Tarantino, which has no code; `my_zaw` is Burmese in an encoding of its own.
NO_LANGUAGE = frozenset({"roa-tara", "my-zaw"})
"""Codes of others that no code of ISO 639-3 stands for."""
